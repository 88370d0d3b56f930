//! The `auxo` under test: the one named on the command line, else built in the caller's own profile.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Path of the binary to run.
///
/// * `given`: value of `--auxo`; without it the workspace's binary is built first, in the profile
///   this program was built in, so that it is never older than the sources.
/// * effects: may run cargo for minutes.
pub fn auxo(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        let found = given.canonicalize();
        return found.with_context(|| format!("--auxo {}", given.display()));
    }
    let here = std::env::current_exe().context("own path")?;
    let folder = here
        .ancestors()
        .find(|at| at.join("auxo.d").exists() || at.ends_with("release"));
    let folder = folder
        .or_else(|| here.ancestors().find(|at| at.ends_with("debug")))
        .context("this program does not lie in a target directory; pass --auxo PATH")?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet"]);
    cargo.args(["-p", "integration", "-p", "auxo", "--bin", "auxo"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo
        .status()
        .context("cargo, to build the binary under test")?;
    if !built.success() {
        bail!("building auxo failed");
    }
    let path = folder.join("auxo");
    match path.exists() {
        true => Ok(path),
        false => bail!("{} was not built; pass --auxo PATH", path.display()),
    }
}
