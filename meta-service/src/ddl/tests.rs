//! What users ask for, and what they are told.

use auxo_proto::schema::{ColumnType, TimeUnit};

use super::*;
use crate::lead::DEFAULT_TENANT;
use crate::model::tests::first_start;

fn column(name: &str, kind: ColumnKind, ty: ColumnType) -> NewColumn {
    NewColumn {
        name: name.to_owned(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    }
}

fn columns() -> Vec<NewColumn> {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    vec![
        column("host", ColumnKind::Tag, ColumnType::String),
        column("ts", ColumnKind::Time, time),
        column("usage", ColumnKind::Field, ColumnType::Float64),
    ]
}

fn asked(ddl: Ddl) -> Result<Plan, Failure> {
    let request = DdlRequest {
        tenant: DEFAULT_TENANT,
        ddl,
        request_key: None,
    };
    plan(&request, &first_start())
}

fn new_table(change: impl FnOnce(&mut auxo_proto::ddl::NewTable)) -> Result<Plan, Failure> {
    let mut table = auxo_proto::ddl::NewTable {
        database: "main".to_owned(),
        name: "cpu".to_owned(),
        columns: columns(),
        partition_by: vec!["host".to_owned()],
        partitions: 2,
        options: TableOptions::default(),
    };
    change(&mut table);
    asked(Ddl::CreateTable {
        table,
        if_not_exists: false,
    })
}

fn refused(plan: Result<Plan, Failure>) -> String {
    plan.unwrap_err().to_string()
}

#[test]
fn a_table_gets_ids_for_its_columns_and_its_partitioning() {
    let Ok(Plan::Procedure(Kind::CreateTable(table))) = new_table(|_| {}) else {
        panic!("a procedure");
    };
    assert_eq!(table.database, DatabaseId(1));
    let ids: Vec<u32> = table.columns.iter().map(|column| column.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(table.partition.columns, [ColumnId(1)]);
}

#[test]
fn what_is_wrong_with_a_table_is_said() {
    let cases = [
        (
            refused(new_table(|table| table.database = "nowhere".to_owned())),
            "DATABASE_NOT_FOUND: there is no database nowhere",
        ),
        (
            refused(new_table(|table| table.columns.remove(1).name.clear())),
            "PLAN_ERROR: a table has exactly one time column, this one has 0",
        ),
        (
            refused(new_table(|table| table.partitions = 1_025)),
            "PLAN_ERROR: 1025 partitions are not between 1 and 1024",
        ),
        (
            refused(new_table(|table| table.partition_by.clear())),
            "PLAN_ERROR: 2 partitions need tags to be spread by",
        ),
        (
            refused(new_table(|table| {
                table.partition_by = vec!["usage".to_owned()]
            })),
            "PLAN_ERROR: column usage is no tag, only tags partition",
        ),
        (
            refused(new_table(|table| {
                table.partition_by = vec!["no".to_owned()]
            })),
            "COLUMN_NOT_FOUND: there is no column no to partition by",
        ),
        (
            refused(new_table(|table| {
                table.partition_by = vec!["host".to_owned(), "host".to_owned()];
            })),
            "PLAN_ERROR: column host is named twice in the partitioning",
        ),
        (
            refused(new_table(|table| table.options.segment_ms = Some(5_000))),
            "PLAN_ERROR: segment_duration must be a whole number of hours",
        ),
        (
            refused(new_table(|table| table.options.ttl_ms = Some(0))),
            "PLAN_ERROR: ttl must be above zero",
        ),
        (
            refused(new_table(|table| table.name = "a\nb".to_owned())),
            "PLAN_ERROR: table name \"a\\nb\" is empty, above 512 bytes or holds a control character",
        ),
        (
            refused(asked(Ddl::AddColumns {
                table: TableId(9),
                columns: columns(),
                if_not_exists: true,
            })),
            "TABLE_NOT_FOUND: there is no table with the id 9",
        ),
        (
            refused(asked(Ddl::CreateDatabase {
                name: "main".to_owned(),
                if_not_exists: false,
            })),
            "ALREADY_EXISTS: database main exists already",
        ),
    ];
    for (told, expected) in cases {
        assert_eq!(told, expected);
    }
}

#[test]
fn what_is_so_already_needs_nothing() {
    let there = asked(Ddl::CreateDatabase {
        name: "main".to_owned(),
        if_not_exists: true,
    });
    assert!(matches!(there, Ok(Plan::Satisfied(_))));
    let absent = asked(Ddl::DropTable {
        database: "main".to_owned(),
        name: "cpu".to_owned(),
        if_exists: true,
    });
    assert!(matches!(absent, Ok(Plan::Satisfied(_))));
    let absent = asked(Ddl::DropDatabase {
        name: "nowhere".to_owned(),
        if_exists: true,
    });
    assert!(matches!(absent, Ok(Plan::Satisfied(_))));
}

#[test]
fn another_tenant_sees_nothing() {
    let request = DdlRequest {
        tenant: TenantId(2),
        ddl: Ddl::DropDatabase {
            name: "main".to_owned(),
            if_exists: false,
        },
        request_key: None,
    };
    let refused = plan(&request, &first_start()).unwrap_err();
    assert_eq!(refused.code, ErrorCode::DatabaseNotFound);
}

#[test]
fn tags_go_behind_the_last_tag_and_fields_to_the_end() {
    let schema = TableSchema {
        number: SchemaNumber(1),
        columns: numbered(&columns()),
    };
    let more = [
        column("idle", ColumnKind::Field, ColumnType::Float64),
        column("zone", ColumnKind::Tag, ColumnType::String),
    ];
    let wider = with_columns(&schema, &more).unwrap();
    let names: Vec<&str> = wider.columns.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["host", "zone", "ts", "usage", "idle"]);
    let ids: Vec<u32> = wider.columns.iter().map(|one| one.id.0).collect();
    assert_eq!(ids, [1, 5, 2, 3, 4]);
    assert_eq!(wider.number, SchemaNumber(2));
    let time = column(
        "t2",
        ColumnKind::Time,
        ColumnType::Timestamp(TimeUnit::Second),
    );
    assert!(with_columns(&schema, &[time]).is_err());
    let mut strict = column("strict", ColumnKind::Field, ColumnType::Int64);
    strict.nullable = false;
    let told = with_columns(&schema, &[strict]).unwrap_err();
    assert!(told.detail.contains("must be nullable"));
    let many: Vec<NewColumn> = (0..COLUMNS_MAX)
        .map(|n| column(&format!("f{n}"), ColumnKind::Field, ColumnType::Bool))
        .collect();
    assert!(
        with_columns(&schema, &many)
            .unwrap_err()
            .detail
            .contains("limit")
    );
}

#[test]
fn a_column_of_another_type_is_named() {
    let schema = TableSchema {
        number: SchemaNumber(1),
        columns: numbered(&columns()),
    };
    let other = [column("usage", ColumnKind::Field, ColumnType::Int64)];
    let told = missing(&schema, &other, true).unwrap_err();
    assert_eq!(told.code, ErrorCode::TypeMismatch);
    assert_eq!(
        told.detail,
        "column usage exists already as field float64, not as field int64"
    );
}
