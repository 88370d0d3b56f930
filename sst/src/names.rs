//! Names of a shard's objects, in one place: how they are built and what a name tells.
//!
//! ```text
//! {shard}/manifest/{number, 20 digits}
//! {shard}/sst/{epoch}.{inc}-{writer, hex}/{tenant}-{table}-{ulid}.parquet
//! {shard}/sst/{epoch}.{inc}-{writer, hex}/{tenant}-bundle-{ulid}
//! check/{number drawn, 32 hex digits}
//! ```
//! Numbers are decimal without leading zeros unless a width is given; `writer` is lower-case hex
//! without leading zeros. Term and writer are those of the leader that gave the name out, so no
//! two leaders ever write the same object, and a name is never used twice.
//!
//! Never here: access to the store.

use auxo_proto::ids::{ShardId, TableId, TenantId, Term};
use object_store::path::Path;
use ulid::Ulid;

const DIGITS: usize = 20;

/// Folder of a shard below the store's prefix.
pub fn shard_folder(shard: ShardId) -> Path {
    Path::from(shard.to_string())
}

/// Folder of all manifests below a shard's folder.
pub fn manifest_folder(shard_folder: &Path) -> Path {
    shard_folder.clone().join("manifest")
}

/// Name of the manifest with that number.
pub fn manifest(shard_folder: &Path, number: u64) -> Path {
    manifest_folder(shard_folder).join(format!("{number:0width$}", width = DIGITS))
}

/// The number in a manifest's name; `None` for anything else that lies in the folder.
pub fn manifest_number(name: &Path) -> Option<u64> {
    let digits = name.filename()?;
    let all_digits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// Name of the object that a start-up check races for, below the store's prefix.
pub fn store_check(drawn: u128) -> Path {
    Path::from(format!("check/{drawn:032x}"))
}

/// Folder of all sorted files of a shard, below the store's prefix.
pub fn sst_folder(shard: ShardId) -> Path {
    shard_folder(shard).join("sst")
}

/// Key of a new sorted file.
pub fn sst_key(
    shard: ShardId,
    term: Term,
    writer: u64,
    tenant: TenantId,
    table: TableId,
    ulid: Ulid,
) -> String {
    format!("{shard}/sst/{term}-{writer:x}/{tenant}-{table}-{ulid}.parquet")
}

/// What the key of a sorted file, or of a bundle of them, tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SstOrigin {
    /// Shard whose leader wrote it.
    pub shard: ShardId,
    /// Term of that leader.
    pub term: Term,
    /// Number the leader drew for its claim.
    pub writer: u64,
}

/// Reads the folders of a key; `None` when it is not the key of a sorted file.
///
/// * shape: only the exact spelling that [`sst_key`] produces passes, so a foreign object that
///   merely looks alike is never taken for one of ours.
pub fn sst_origin(key: &str) -> Option<SstOrigin> {
    let mut parts = key.split('/');
    let (shard, sst) = (parts.next()?, parts.next()?);
    let (leader, file) = (parts.next()?, parts.next()?);
    if sst != "sst" || file.is_empty() || parts.next().is_some() {
        return None;
    }
    let (term, writer) = leader.split_once('-')?;
    let (epoch, inc) = term.split_once('.')?;
    let origin = SstOrigin {
        shard: ShardId(shard.parse().ok()?),
        term: Term {
            epoch: epoch.parse().ok()?,
            inc: inc.parse().ok()?,
        },
        writer: u64::from_str_radix(writer, 16).ok()?,
    };
    let exact = format!("{}/sst/{}-{:x}/", origin.shard, origin.term, origin.writer);
    key.starts_with(&exact).then_some(origin)
}

/// When the name of a sorted file was given out, in milliseconds since 1970, by its leader's clock.
///
/// * shape: `None` when the key does not end in a ULID as [`sst_key`] writes it.
pub fn sst_made_ms(key: &str) -> Option<i64> {
    let file = key.rsplit('/').next()?;
    let stem = file.strip_suffix(".parquet").unwrap_or(file);
    let ulid = Ulid::from_string(stem.rsplit('-').next()?).ok()?;
    i64::try_from(ulid.timestamp_ms()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_they_were_made_of() {
        let folder = shard_folder(ShardId(7));
        let name = manifest(&folder, 42);
        assert_eq!(name.as_ref(), "7/manifest/00000000000000000042");
        assert_eq!(manifest_number(&name), Some(42));
        assert_eq!(
            manifest_number(&manifest(&folder, u64::MAX)),
            Some(u64::MAX)
        );

        let term = Term { epoch: 3, inc: 1 };
        let key = sst_key(
            ShardId(7),
            term,
            0xabc,
            TenantId(1),
            TableId(2),
            Ulid::from_parts(5, 6),
        );
        assert_eq!(key, "7/sst/3.1-abc/1-2-00000000050000000000000006.parquet");
        let origin = SstOrigin {
            shard: ShardId(7),
            term,
            writer: 0xabc,
        };
        assert_eq!(sst_origin(&key), Some(origin));
        assert_eq!(sst_made_ms(&key), Some(5));
        let bundle = "7/sst/3.1-abc/1-bundle-00000000060000000000000006";
        assert_eq!(sst_origin(bundle), Some(origin));
        assert_eq!(sst_made_ms(bundle), Some(6));
        assert_eq!(sst_made_ms("7/sst/3.1-abc/1-2-old.parquet"), None);
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "7/manifest/42",
            "7/manifest/0000000000000000004x",
            "7/manifest/99999999999999999999",
        ] {
            assert_eq!(manifest_number(&Path::from(name)), None, "{name}");
        }
        for key in [
            "",
            "7/sst/3.1-abc",
            "7/sst/3.1-abc/",
            "7/sst/3.1-abc/a/b",
            "7/sst/3-abc/a",
            "7/sst/3.1/a",
            "7/sst/3.1-ABC/a",
            "7/sst/3.1-0abc/a",
            "7/sst/03.1-abc/a",
            "7/sst/+3.1-abc/a",
            "7/manifest/3.1-abc/a",
            "x/sst/3.1-abc/a",
        ] {
            assert_eq!(sst_origin(key), None, "{key}");
        }
    }
}
