"""Django's backend for PostgreSQL, which signs each transaction before its first statement, and anew when the signature changes."""

from django.db import transaction
from django.db.backends.postgresql import base

from audit import current

SIGN = """SELECT set_config('audit_cdc.username', %s, true), set_config('audit_cdc.source', %s, true),
                 set_config('audit_cdc.request_id', %s, true)"""
UNKNOWN = object()


class DatabaseWrapper(base.DatabaseWrapper):
    signed_as = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.execute_wrappers.append(self.sign)

    def set_autocommit(self, *args, **kwargs):
        super().set_autocommit(*args, **kwargs)
        self.signed_as = None

    def _commit(self):
        super()._commit()
        self.signed_as = None

    def _rollback(self):
        super()._rollback()
        self.signed_as = None

    def _savepoint_rollback(self, sid):
        self.signed_as = current.get()
        super()._savepoint_rollback(sid)
        self.signed_as = UNKNOWN

    def sign(self, execute, sql, params, many, context):
        signature = current.get()
        if signature == self.signed_as:
            return execute(sql, params, many, context)
        if not self.get_autocommit():
            self.signed_as = signature
            with self.cursor() as cursor:
                cursor.execute(SIGN, signature or (None, None, None))
            return execute(sql, params, many, context)
        if str(sql).lstrip()[:6].upper() == "SELECT":
            return execute(sql, params, many, context)
        with transaction.atomic(using=self.alias):
            return self.sign(execute, sql, params, many, context)
