"""Django's backend for PostgreSQL, which signs each transaction before its first statement."""

from django.db import transaction
from django.db.backends.postgresql import base

from audit import current

SIGN = """SELECT set_config('audit_cdc.username', %s, true), set_config('audit_cdc.source', %s, true),
                 set_config('audit_cdc.request_id', %s, true)"""


class DatabaseWrapper(base.DatabaseWrapper):
    is_signed = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.execute_wrappers.append(self.sign)

    def set_autocommit(self, *args, **kwargs):
        super().set_autocommit(*args, **kwargs)
        self.is_signed = False

    def _commit(self):
        super()._commit()
        self.is_signed = False

    def _rollback(self):
        super()._rollback()
        self.is_signed = False

    def sign(self, execute, sql, params, many, context):
        if self.is_signed or current.get() is None:
            return execute(sql, params, many, context)
        if not self.get_autocommit():
            self.is_signed = True
            with self.cursor() as cursor:
                cursor.execute(SIGN, current.get())
            return execute(sql, params, many, context)
        if str(sql).lstrip()[:6].upper() == "SELECT":
            return execute(sql, params, many, context)
        with transaction.atomic(using=self.alias):
            return self.sign(execute, sql, params, many, context)
