"""docs/reference.md is what the COMMENTs say; scripts/reference writes it anew."""

import sys

from conftest import TOP

sys.path.insert(0, str(TOP / "scripts"))
from reference import reference


def test_the_reference_is_not_stale(db):
    assert (TOP / "docs" / "reference.md").read_text() == reference(db.connect()), "run scripts/reference"


def test_every_public_object_says_what_it_is(db):
    page = (TOP / "docs" / "reference.md").read_text()
    names = db.rows("""SELECT proname FROM pg_proc WHERE proname ~ '^audit_' AND pronamespace = 'public'::regnamespace
                       UNION SELECT relname FROM pg_class WHERE relname ~ '^audit_' AND relkind = 'v' AND relnamespace = 'public'::regnamespace""")
    assert len(names) > 50
    assert [name for (name,) in names if f"\n### {name}\n" not in page] == []
    assert "### audit_cdc_reader" in page and "`audit_cdc.on_reject`" in page and "| 22023 |" in page
