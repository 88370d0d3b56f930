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
    match given {
        Some(given) => {
            let found = given.canonicalize();
            found.with_context(|| format!("--auxo {}", given.display()))
        }
        None => build(&profile()?),
    }
}

/// Path of the binary beside the test that runs; built only if there is none.
///
/// * effects: may run cargo for minutes.
pub fn beside() -> Result<PathBuf> {
    let profile = profile()?;
    let path = profile.join("auxo");
    match path.exists() {
        true => Ok(path),
        false => build(&profile),
    }
}

/// The folder of the profile in which this program, or this test in its `deps`, was built.
fn profile() -> Result<PathBuf> {
    let here = std::env::current_exe().context("own path")?;
    let folder = here.parent().filter(|folder| !folder.ends_with("deps"));
    let folder = folder.or_else(|| here.ancestors().nth(2));
    let known = folder.filter(|at| at.ends_with("debug") || at.ends_with("release"));
    let known =
        known.context("this program does not lie in a target directory; pass --auxo PATH")?;
    Ok(known.to_owned())
}

/// Builds with the features of the whole workspace: others would build everything once more.
fn build(profile: &Path) -> Result<PathBuf> {
    let target = profile.parent().context("a profile lies in a target")?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--workspace", "--bin", "auxo"])
        .arg("--target-dir")
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo
        .status()
        .context("cargo, to build the binary under test")?;
    if !built.success() {
        bail!("building auxo failed");
    }
    let path = profile.join("auxo");
    match path.exists() {
        true => Ok(path),
        false => bail!("{} was not built; pass --auxo PATH", path.display()),
    }
}
