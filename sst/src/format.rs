//! Names, numbers and the section directory of a sorted file; the picture is in
//! `docs/formats/sst.md`.
//!
//! ```text
//! "PAR1" │ row groups │ postings │ series │ heads │ sums │ blooms │ page index │ footer │ length │ "PAR1"
//!        └── data ────┴ tail ─────────────────────────────────────────────────────────────────────────┘
//! ```
//! Sections are found through `auxo.sections` in the footer; one that is not known here is left
//! alone, and so is a key that is not known.

mod varint;

use std::fmt;
use std::str::FromStr;

pub(crate) use varint::{Malformed, Reader, put_bytes, put_i64, put_u64};

/// Newest layout that is written and read here.
pub const FORMAT: u32 = 1;
/// Bytes covered by one checksum of the `sums` section.
pub const SUM_BLOCK: u64 = 256 * 1024;
/// Most rows of a row group.
pub const ROW_GROUP_ROWS: usize = 131_072;
/// Most rows of a page, and of a batch that a scan returns.
pub const PAGE_ROWS: usize = 8_192;
/// Series in one block of the series index, but for the last block.
pub const BLOCK_SERIES: usize = 128;
/// Below this many rows a series a file of many series keeps no entry per series.
pub const SPARSE_ROWS: u64 = 8;
/// With fewer series than this a file is never sparse: its index is small anyway.
pub const SPARSE_SERIES_MIN: usize = 4_096;
/// Size at which a writer should be finished and a new file begun.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys of the footer's metadata. Never reused for another meaning.
pub(crate) mod keys {
    pub(crate) const FORMAT: &str = "auxo.format";
    pub(crate) const TABLE: &str = "auxo.table";
    pub(crate) const SCHEMA: &str = "auxo.schema";
    pub(crate) const SEGMENT: &str = "auxo.segment";
    pub(crate) const SEQ: &str = "auxo.seq";
    pub(crate) const MERGE_MODE: &str = "auxo.merge_mode";
    pub(crate) const WRITER: &str = "auxo.writer";
    pub(crate) const PARTITION: &str = "auxo.partition";
    pub(crate) const SECTIONS: &str = "auxo.sections";
}

/// Names of the sections. Never reused for another meaning.
pub(crate) mod sections {
    pub(crate) const POSTINGS: &str = "postings";
    pub(crate) const SERIES: &str = "series";
    pub(crate) const HEADS: &str = "heads";
    pub(crate) const SUMS: &str = "sums";
}

/// Where a named piece of the file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// One of [`sections`], or one of a later version.
    pub(crate) name: String,
    /// From the start of the file.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u64,
    /// CRC-32C of its bytes.
    pub(crate) crc32c: u32,
}

/// The pieces of a file, as `auxo.sections` lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sections(pub(crate) Vec<Section>);

impl Sections {
    pub(crate) fn get(&self, name: &str) -> Option<&Section> {
        self.0.iter().find(|section| section.name == name)
    }
}

impl fmt::Display for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, section) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let Section {
                name,
                offset,
                length,
                crc32c,
            } = section;
            write!(f, "{comma}{name}:{offset}:{length}:{crc32c:08x}")?;
        }
        Ok(())
    }
}

impl FromStr for Sections {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = |part: &str| {
            let mut parts = part.split(':');
            let section = Section {
                name: parts.next()?.to_owned(),
                offset: parts.next()?.parse().ok()?,
                length: parts.next()?.parse().ok()?,
                crc32c: u32::from_str_radix(parts.next()?, 16).ok()?,
            };
            parts.next().is_none().then_some(section)
        };
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(parse)
            .collect::<Option<Vec<_>>>()
            .map(Self)
            .ok_or(Malformed("directory of sections"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_read_back_what_they_show() {
        let section = |name: &str, offset| Section {
            name: name.into(),
            offset,
            length: 7,
            crc32c: 0xab,
        };
        for list in [
            vec![],
            vec![section("heads", 4)],
            vec![section("a", 1), section("b", 2)],
        ] {
            let sections = Sections(list);
            assert_eq!(sections.to_string().parse(), Ok(sections));
        }
        assert_eq!(
            Sections(vec![section("heads", 4)]).to_string(),
            "heads:4:7:000000ab"
        );
        for bad in ["heads", "heads:1:2", "heads:1:2:zz", "heads:1:2:ab:9", ",:"] {
            assert!(bad.parse::<Sections>().is_err(), "{bad}");
        }
    }
}
