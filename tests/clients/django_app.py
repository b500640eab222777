"""Runs a small Django project: migrations, queries, transactions, cursors on the server. Prints what it found as
JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["DJANGO_HOST"],
            "PORT": os.environ["DJANGO_PORT"],
            "USER": "app_user",
            "NAME": "app",
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"options": f"-c search_path={os.environ['DJANGO_SCHEMA']}"},
        }
    },
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, connection, transaction  # noqa: E402
from django.db.models import Count  # noqa: E402


def main() -> dict[str, Any]:
    call_command("migrate", verbosity=0)
    call_command("check", databases=["default"], stdout=sys.stderr)
    User.objects.bulk_create(User(username=f"user {n}") for n in range(150))
    group = Group.objects.create(name="all")
    group.user_set.set(User.objects.filter(id__lte=10))
    found: dict[str, Any] = {
        "people": User.objects.count(),
        "streamed": [user.username for user in User.objects.order_by("id").iterator(chunk_size=20)][:60],
        "joined": list(
            User.objects.annotate(n=Count("groups")).filter(n=1).order_by("id").values_list("username", flat=True)
        ),
        "tables": sorted(connection.introspection.table_names()),
        "explained": "Scan" in User.objects.filter(id=1).explain(),
    }
    errors = []
    try:
        with transaction.atomic():
            User.objects.create(username="user 1")
    except DatabaseError as error:
        errors.append(str(error))
    with transaction.atomic():
        locked = User.objects.select_for_update().get(username="user 1")
        locked.first_name = "changed"
        locked.save()
        mark = transaction.savepoint()
        User.objects.all().delete()
        transaction.savepoint_rollback(mark)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, current_setting('search_path')", ["x"])
        found["raw"] = cursor.fetchall()
    connection.close()
    return found | {"errors": errors, "after": User.objects.get(username="user 1").first_name}


if __name__ == "__main__":
    print(json.dumps(main()))
