"""Loads one CSV file into DuckDB and writes the rows of each query as JSON.

Arguments: a JSON file {"csv": path, "queries": [text, ...]} and the file to write.
Timestamps come out as whole nanoseconds since 1970.
"""
import datetime
import json
import sys

import duckdb

EPOCH = datetime.datetime(1970, 1, 1)
MICROSECOND = datetime.timedelta(microseconds=1)


def plain(value):
    """A value as JSON can hold it."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MICROSECOND * 1000
    return value


def main():
    asked = json.load(open(sys.argv[1]))
    connection = duckdb.connect()
    connection.execute("SET threads TO 2")
    connection.execute(
        "CREATE TABLE cpu AS SELECT * REPLACE (make_timestamp(time // 1000) AS time) "
        "FROM read_csv(?, header = true, all_varchar = false, "
        "types = {'rack': 'VARCHAR', 'service': 'VARCHAR', 'service_version': 'VARCHAR', 'time': 'BIGINT'})",
        [asked["csv"]],
    )
    answers = []
    for query in asked["queries"]:
        rows = connection.execute(query).fetchall()
        answers.append([[plain(value) for value in row] for row in rows])
    json.dump(answers, open(sys.argv[2], "w"))


main()
