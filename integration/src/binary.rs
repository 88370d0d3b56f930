//! The `auxo` under test: the one named on the command line, else built in the caller's own profile.
//!
//! One that was built without its fence is refused, but where it is asked for: [`unfenced`].

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What `auxo version` says of a binary that was built without its fence.
const UNFENCED: &str = "unfenced";

/// Path of the binary to run.
///
/// * `given`: value of `--auxo`; without it the workspace's binary is built first, in the profile
///   this program was built in, so that it is never older than the sources.
/// * errors: it was built without its fence.
/// * effects: may run cargo for minutes.
pub fn auxo(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(given) => found(given)?,
        None => build(&profile()?, false)?,
    };
    if is_unfenced(&path)? {
        bail!("{} was built without its fence", path.display());
    }
    Ok(path)
}

/// Path of a binary without the fence (feature `unfenced` of `auxo-engine`), which loses rows.
///
/// * `given`: as for [`auxo`]; without it one is built into a folder of its own below the target
///   directory, so that it never lies where the real one is looked for.
/// * errors: it was built with its fence.
pub fn unfenced(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(given) => found(given)?,
        None => build(&profile()?, true)?,
    };
    if !is_unfenced(&path)? {
        bail!("{} has its fence", path.display());
    }
    Ok(path)
}

fn found(given: &Path) -> Result<PathBuf> {
    let found = given.canonicalize();
    found.with_context(|| format!("--auxo {}", given.display()))
}

fn is_unfenced(path: &Path) -> Result<bool> {
    let told = Command::new(path).arg("version").output();
    let told = told.with_context(|| path.display().to_string())?;
    if !told.status.success() {
        bail!("{} version ended with {}", path.display(), told.status);
    }
    Ok(String::from_utf8_lossy(&told.stdout).contains(UNFENCED))
}

/// Path of the binary beside the test that runs; built only if there is none.
///
/// * effects: may run cargo for minutes.
pub fn beside() -> Result<PathBuf> {
    let profile = profile()?;
    let path = profile.join("auxo");
    match path.exists() {
        true => Ok(path),
        false => build(&profile, false),
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

/// Whether cargo sets this variable for a program that it runs, to tell of that program's package. A
/// build that inherits it looks changed to crates that watch it (`ring`), with all that stands on them.
fn describes_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Builds with the features of the whole workspace: others would build everything once more.
fn build(profile: &Path, unfenced: bool) -> Result<PathBuf> {
    let target = profile.parent().context("a profile lies in a target")?;
    let output = match unfenced {
        true => target.join(UNFENCED),
        false => target.to_owned(),
    };
    let mut cargo = Command::new("cargo");
    // Asked when it runs: one build may serve several checkouts.
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR") {
        cargo.current_dir(package);
    }
    cargo
        .args(["build", "--quiet", "--workspace", "--bin", "auxo"])
        .arg("--target-dir")
        .arg(&output)
        // Where everything but the binary goes: what both have in common is built once.
        .env("CARGO_BUILD_BUILD_DIR", target);
    for (name, _) in std::env::vars_os() {
        if describes_package(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    if unfenced {
        cargo.args(["--features", "auxo-engine/unfenced"]);
    }
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo
        .status()
        .context("cargo, to build the binary under test")?;
    if !built.success() {
        bail!("building auxo failed");
    }
    let name = profile.file_name().context("name of a profile")?;
    let path = output.join(name).join("auxo");
    match path.exists() {
        true => Ok(path),
        false => bail!("{} was not built; pass --auxo PATH", path.display()),
    }
}
