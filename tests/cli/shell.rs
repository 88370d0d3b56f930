//! The shell of `auxo sql`, on a terminal.

use crate::process::auxo;
use crate::responder::{Answer, Responder, answer, problem};
use crate::terminal::Terminal;

const JSON: &str = "application/json";

/// A node that knows one table and answers each statement by a word in it.
fn node() -> Responder {
    Responder::start(|request| {
        let says = |word| request.body.contains(word);
        if says("information_schema") {
            let names = r#"{"columns":[{"name":"table_name","type":"string"},{"name":"column_name","type":"string"}],
                "rows":[["cpu","usage_user"]]}"#;
            return answer(200, JSON, "", names);
        }
        if request.line.starts_with("DELETE") {
            return answer(204, JSON, "", "");
        }
        if says("SLOW") {
            let Answer::Bytes(bytes) = problem(499, r#"{"code":"CANCELLED","detail":"stopped"}"#)
            else {
                unreachable!("a problem is bytes");
            };
            return Answer::Cancelled(bytes);
        }
        if says("NEVER") {
            return Answer::Silence;
        }
        if says("usage_user") {
            return answer(200, "text/csv", "", "usage_user\n42\n");
        }
        answer(
            200,
            JSON,
            "",
            r#"{"columns":[{"name":"a","type":"int64"}],"rows":[[7]]}"#,
        )
    })
}

fn shell(node: &Responder) -> Terminal {
    let terminal = Terminal::start(auxo(&["sql", "--url", &node.url]));
    terminal.wait_for("\\? for help");
    terminal.wait_for("main> ");
    terminal
}

#[test]
fn a_statement_is_read_over_lines_and_shown() {
    let node = node();
    let mut terminal = shell(&node);
    terminal.type_keys("SELECT ';' AS a\r");
    terminal.wait_for("... ");
    terminal.type_keys(", 7;\r");
    terminal.wait_for("a\r\n-\r\n7\r\n");
    terminal.wait_for("1 rows");
    terminal.wait_for("main> ");
    terminal.type_keys("\\timing\r");
    terminal.wait_for("timing is on");
    terminal.wait_for("main> ");
    terminal.type_keys("\\format csv\r");
    terminal.wait_for("main> ");
    terminal.type_keys("SELECT usa\t");
    terminal.wait_for("usage_user");
    terminal.type_keys(";\r");
    terminal.wait_for("usage_user\r\n42\r\n");
    terminal.wait_for(" ms");
    terminal.wait_for("main> ");
    terminal.type_keys("\\c other\r");
    terminal.wait_for("other> ");
    terminal.type_keys("\\nonsense\r");
    terminal.wait_for("there is no command");
    terminal.wait_for("other> ");
    terminal.type_keys("\\q\r");
    assert_eq!(terminal.exit_code(), Some(0));
    let asked = node.seen();
    assert!(
        asked
            .iter()
            .any(|request| request.body.contains("SELECT ';' AS a\\n, 7"))
    );
}

#[test]
fn ctrl_c_drops_what_was_typed_and_ctrl_d_leaves() {
    let node = node();
    let mut terminal = shell(&node);
    terminal.type_keys("SELECT nonsense\x03");
    terminal.wait_for("main> ");
    terminal.type_keys("\x04");
    assert_eq!(terminal.exit_code(), Some(0));
    assert!(
        node.seen()
            .iter()
            .all(|request| !request.body.contains("nonsense"))
    );
}

#[test]
fn ctrl_c_stops_a_statement_and_the_shell_goes_on() {
    let node = node();
    let mut terminal = shell(&node);
    node.next();
    terminal.type_keys("SELECT SLOW;\r");
    assert!(node.next().body.contains("SLOW"));
    terminal.interrupt();
    assert!(node.next().line.starts_with("DELETE /v1/queries/"));
    terminal.wait_for("error: cancelled");
    terminal.wait_for("main> ");
    terminal.type_keys("SELECT 1;\r");
    terminal.wait_for("1 rows");
    terminal.wait_for("main> ");
    terminal.type_keys("\x04");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn a_second_ctrl_c_leaves() {
    let node = node();
    let mut terminal = shell(&node);
    node.next();
    terminal.type_keys("SELECT NEVER;\r");
    assert!(node.next().body.contains("NEVER"));
    terminal.interrupt();
    assert!(node.next().line.starts_with("DELETE /v1/queries/"));
    terminal.interrupt();
    assert_eq!(terminal.exit_code(), Some(130));
}
