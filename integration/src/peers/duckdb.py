"""Holds one CSV file in DuckDB, on one thread, and answers one question a line.

Arguments: the CSV file. A question is {"sql": text, "rows": true or false}; the answer
{"seconds": time until the whole result was there, "rows": [[value, ...], ...] or null}.
Timestamps come out as whole nanoseconds since 1970. Ends with its standard input.
"""
import datetime
import json
import sys
import time

import duckdb

EPOCH = datetime.datetime(1970, 1, 1)
MICROSECOND = datetime.timedelta(microseconds=1)


def plain(value):
    """A value as JSON can hold it."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MICROSECOND * 1000
    return value


def answer(connection, question):
    """Runs one question; the rows stay in DuckDB until the time is taken."""
    began = time.perf_counter()
    result = connection.sql(question["sql"]).materialize()
    seconds = time.perf_counter() - began
    rows = None
    if question["rows"]:
        rows = [[plain(value) for value in row] for row in result.fetchall()]
    return {"seconds": seconds, "rows": rows}


def main():
    connection = duckdb.connect()
    connection.execute("SET threads TO 1")
    connection.execute(
        "CREATE TABLE cpu AS SELECT * REPLACE (make_timestamp(time // 1000) AS time) "
        "FROM read_csv(?, header = true, all_varchar = false, "
        "types = {'rack': 'VARCHAR', 'service': 'VARCHAR', 'service_version': 'VARCHAR', 'time': 'BIGINT'})",
        [sys.argv[1]],
    )
    for line in sys.stdin:
        print(json.dumps(answer(connection, json.loads(line))), flush=True)


main()
