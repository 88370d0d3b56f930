//! Settings and their faults.

use crate::process::auxo;

#[test]
fn a_fault_in_a_file_ends_with_2_and_names_the_place() {
    let ended = auxo(&["config", "check"])
        .file(
            "auxo.toml",
            "cluster = \"eu\"\n\n[wal]\nbrokes = \"kafka://b1\"\n",
        )
        .run()
        .expect(2);
    assert_eq!(
        ended.stderr,
        "error: auxo.toml:4:1: unknown key \"wal.brokes\"; did you mean \"wal.url\"?\n"
    );
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_named_file_replaces_the_usual_one() {
    let printed = auxo(&["config", "print", "--origin", "--config", "other.toml"])
        .file("auxo.toml", "this is no configuration")
        .file("other.toml", "zone = \"b\"\n")
        .env("AUXO_WAL__URL", "memory://")
        .run()
        .expect(0);
    assert!(
        printed.stdout.contains("zone = \"b\"  # other.toml:1:8\n"),
        "{printed:?}"
    );
    assert!(
        printed
            .stdout
            .contains("url = \"memory://\"  # environment AUXO_WAL__URL\n"),
        "{printed:?}"
    );
    assert_eq!(printed.stderr, "");
}

#[test]
fn what_is_printed_is_read_again() {
    let printed = auxo(&["config", "print"]).run().expect(0).stdout;
    let ended = auxo(&["config", "check"])
        .file("auxo.toml", &printed)
        .run()
        .expect(0);
    assert!(
        ended
            .stderr
            .starts_with("configuration is good; memory budget "),
        "{ended:?}"
    );
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [
        &["sql", "--no-such-flag"][..],
        &["no-such-command"],
        &["write", "--workers", "0"],
        &["write", "/no/such/file"],
        &["sql", "-f", "/no/such/file"],
        &["sql", "-c", "SELECT 1", "--param", "x"],
        &["sql", "-c", "SELECT 1", "--url", "ftp://x"],
        &["sql", "-c", "SELECT 1", "--token", "auxo_literal"],
        &["config", "print", "--set", "zone"],
    ] {
        let ended = auxo(arguments).run().expect(2);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(!ended.stderr.contains("auxo_literal"), "{ended:?}");
    }
}

#[test]
fn help_and_version_are_data() {
    let help = auxo(&["--help"]).run().expect(0);
    for word in [
        "standalone",
        "sql",
        "write",
        "config",
        "Exit codes",
        "AUXO_SECTION__KEY",
    ] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    let version = auxo(&["version"]).run().expect(0);
    assert_eq!(
        version.stdout,
        format!("auxo {}\n", env!("CARGO_PKG_VERSION"))
    );
}
