"""The demo's day, and the picture of its story in the README."""

import re
import subprocess

import pytest
from capture_helpers import stop
from conftest import TOP, server


@pytest.fixture
def shop(empty):
    yield empty
    server("start")
    stop(empty, discard=True)


def told(shop, script, stops):
    # a script on its input, as scripts/demo runs it: it connects anew in between
    done = subprocess.run(["psql", "-Xq", "-v", f"ON_ERROR_STOP={stops}", "-v", "bold=", "-v", "plain=", "-P", "pager=off", "-d", shop.name],
                          input=(TOP / "scripts" / script).read_text(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=TOP)
    assert done.returncode == 0 or not stops, done.stdout
    return done.stdout


def test_the_picture_is_what_the_demo_prints(shop):
    story = told(shop, "demo_shop.sql", 1) + told(shop, "demo_day.sql", 1) + told(shop, "demo_story.sql", 0)
    drawn = subprocess.run([TOP / "scripts" / "demo_svg"], input=story, text=True, capture_output=True, check=True).stdout
    without_times = lambda picture: re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", picture)
    assert "decimal point slipped" in drawn and "append-only" in drawn
    assert without_times((TOP / "docs" / "pictures" / "demo.svg").read_text()) == without_times(drawn), "scripts/demo | scripts/demo_svg > docs/pictures/demo.svg"
