"""What the log holds is, byte for byte, what PostgreSQL itself makes of the same JSON."""

import json
import random

from conftest import batch, change

NUMBERS = ["0", "-0", "0.0", "-0.00", "1", "-1", "9999", "10000", "10001", "100000000", "12345678901234567890", "1.10", "0.1", "0.0001", "0.00001",
           "0.00010000", "1000.0001", "99999999.99999999", "-123456789.987654321", "0." + "0" * 57 + "1", "1" * 60, "1" * 61, "1" * 200, "1." + "0" * 58,
           "0." + "1" * 70, "1e5", "1E-7", "1.5e+300", "-1e-20", "123e0", "10000000000000000", "1234567890123456.7890", "0.12345", "120000", "1200000000.00"]
# what the extension reads itself; anything else makes it leave the whole image to PostgreSQL
USUAL = [number for number in NUMBERS if len(number) <= 60 and "e" not in number.lower()]
STRINGS = ["", "a", "ab", "ä", "日本語", "😀", "line\nbreak", "\t\"quoted\"\\", "/", "\b\f\r", "x" * 3000, "\x7f", "null", " ", "\x01"]


def value(chance, depth, usual):
    """The text of some JSON."""
    kind = chance.randrange(8 if depth < 5 else 6)
    space = chance.choice(["", "", " ", "\n\t"])
    if kind < 2:
        return chance.choice(USUAL if usual else NUMBERS + [str(chance.random())]) if chance.random() < 0.5 else str(chance.randrange(10**chance.randrange(1, 20)))
    if kind < 4:
        return json.dumps(chance.choice(STRINGS[:-usual or None]), ensure_ascii=not usual and chance.random() < 0.2).replace("/", chance.choice(["/", "\\/"]))
    if kind == 4:
        return chance.choice(["true", "false", "null"])
    if kind == 5:
        return chance.choice(["{}", "[]", "{ }", "[\n]"])
    count = chance.choice([1, 2, 3, 31, 32, 33, 70]) if depth < 2 else chance.randrange(4)
    if kind == 6:
        return "[" + f"{space},{space}".join(value(chance, depth + 1, usual) for _ in range(count)) + space + "]"
    return image(chance, depth, count, usual, space)


def image(chance, depth, count, usual, space=""):
    keys = [json.dumps(chance.choice(STRINGS[:-usual or None]) + str(chance.randrange(count * 3)), ensure_ascii=False) for _ in range(count)]
    return "{" + space + f"{space},{space}".join(f"{key}{space}:{space}{value(chance, depth + 1, usual)}" for key in keys) + space + "}"


def bodies(images):
    """Sent as they are written: Python's own JSON would spell them anew."""
    for number, text in enumerate(images):
        yield json.dumps(change(number, action="insert", record="@")).replace('"@"', text)


def compared(db, images):
    for start in range(0, len(images), 50):
        body = '{"data":[' + ",".join(list(bodies(images))[start:start + 50]) + "]}"
        count = min(50, len(images) - start)
        assert db.ingest(body) == (count, count, 0, 0)
    db.run("CREATE TABLE sent (n integer, image text)")
    for number, text in enumerate(images):
        db.run("INSERT INTO sent VALUES (%s, %s)", number, text)
    return db.rows("""SELECT count(*), count(*) FILTER (WHERE record_image_eq(ROW(l.new_values), ROW(s.image::jsonb))),
                             count(*) FILTER (WHERE l.new_values = s.image::jsonb)
                      FROM sent AS s JOIN audit_cdc_internal.log AS l ON l.commit_idx = s.n""")


def test_random_images(db):
    chance = random.Random(20261124)
    images = [image(chance, 0, chance.choice([0, 1, 2, 5, 16, 31, 32, 33, 64, 65, 100]), usual=n < 300) for n in range(400)]
    assert compared(db, images) == [(400, 400, 400)]


def test_each_number_and_string(db):
    images = ['{"v":%s}' % number for number in NUMBERS]
    images += ['{"v":[%s,"a",%s]}' % (number, number) for number in NUMBERS]
    images += ['{"v":%s,%s:1}' % (json.dumps(string), json.dumps(string + "k", ensure_ascii=False)) for string in STRINGS]
    images += ['{"a":1,"a":2}', '{"a":1,"b":2,"a":[],"b":3}', '{"aa":1,"b":2,"":3}', '{"a":' + "[" * 80 + "]" * 80 + "}", '{"\\u0061":1,"a":2}']
    assert compared(db, images) == [(len(images),) * 3]


def test_a_large_image(db):
    images = ['{"v":"%s"}' % ("x" * 20_000_000), '{"v":[%s]}' % ",".join(["1.5"] * 300_000)]
    assert compared(db, images) == [(2, 2, 2)]
