//! What was probably meant, and names as SQL has them written.
//!
//! Never here: what is wrong.

/// Longest name that is compared with others, in characters: what is longer is no slip of the hand.
const COMPARED_CHARS_MAX: usize = 64;

/// Most names that one is compared with. Comparing costs the product of two lengths, in one go.
const COMPARED_MAX: usize = 4_096;

/// The candidate that was probably meant, as "did you mean x?": at most one slip, and one more for
/// every four letters.
///
/// * returns: `None` for a name of more than [`COMPARED_CHARS_MAX`]; of more candidates than
///   [`COMPARED_MAX`] that have about its length, the first ones are compared.
pub(crate) fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let length = written.chars().take(COMPARED_CHARS_MAX + 1).count();
    if length > COMPARED_CHARS_MAX {
        return None;
    }
    let lower = written.to_lowercase();
    let slips_max = 1 + length / 4;
    // Each letter that one has more than the other is a slip.
    let about_as_long = |candidate: &&str| {
        let chars = candidate.chars().take(length + slips_max + 1).count();
        *candidate != written && length.abs_diff(chars) <= slips_max
    };
    candidates
        .into_iter()
        .filter(about_as_long)
        .take(COMPARED_MAX)
        .map(|candidate| {
            let slips = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (slips, candidate)
        })
        .filter(|(slips, candidate)| {
            let longest = length.max(candidate.chars().count());
            *slips <= slips_max && *slips < longest
        })
        .min()
        .map(|(_, candidate)| format!("did you mean {}?", quoted_if_needed(candidate)))
}

/// A name as it has to be written in SQL.
pub(crate) fn quoted_if_needed(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if starts && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
