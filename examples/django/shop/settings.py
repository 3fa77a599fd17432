"""Of a shop whose login is a header; only what stands under "audit" is for others to copy."""

import os

SECRET_KEY = "of the example"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.views"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "shop.views.HeaderLogin",
    "audit.AuditMiddleware",
]

DATABASES = {
    "default": {
        "ENGINE": "audit.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "ATOMIC_REQUESTS": os.environ.get("ATOMIC_REQUESTS") == "yes",
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {"pool": {"min_size": 2, "max_size": 4}},
    }
}
