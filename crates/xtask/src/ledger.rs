//! Writes the table into docs/ledger.md, between two comments; all else in it is people's.

const BEGIN: &str = "<!-- matrix: begin, written by `cargo xtask matrix --record` -->";
const END: &str = "<!-- matrix: end -->";
const HEADING: &str = "## The matrix of stock kernels";

/// The ledger cannot be changed safely.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the comments {BEGIN:?} and {END:?} do not enclose one place")]
pub(crate) struct BrokenMarkers;

/// The ledger with this table in its place; at its end where it has no such place yet.
///
/// # Errors
/// [`BrokenMarkers`], when only one of the comments is there, or they stand the wrong way round.
pub(crate) fn with_table(ledger: &str, date: &str, table: &str) -> Result<String, BrokenMarkers> {
    let body = format!("{BEGIN}\n{date}, under QEMU's emulation of AMD SVM:\n\n{table}{END}");
    match (ledger.find(BEGIN), ledger.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            let before = &ledger[..begin];
            let after = &ledger[end + END.len()..];
            if after.contains(BEGIN) || after.contains(END) {
                return Err(BrokenMarkers);
            }
            Ok(format!("{before}{body}{after}"))
        }
        (None, None) => Ok(format!("{}\n\n{HEADING}\n\n{body}\n", ledger.trim_end())),
        (Some(_) | None, _) => Err(BrokenMarkers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_added_once_and_replaced_then() {
        let first = with_table("# Ledger\n\nText.\n", "2026-11-22", "| a |\n").unwrap();
        assert!(first.starts_with("# Ledger\n\nText.\n\n## The matrix"));
        let more = format!("{first}\n## Later\n");
        let second = with_table(&more, "2026-11-23", "| b |\n").unwrap();
        assert!(second.contains("2026-11-23") && second.contains("| b |"));
        assert!(!second.contains("2026-11-22") && !second.contains("| a |"));
        assert!(second.ends_with("\n## Later\n"));
        assert_eq!(second.matches(BEGIN).count(), 1);
    }

    #[test]
    fn broken_markers_are_left_alone() {
        for text in [
            BEGIN.to_owned(),
            END.to_owned(),
            format!("{END}\n{BEGIN}"),
            format!("{BEGIN}\n{END}\n{BEGIN}\n{END}"),
        ] {
            assert_eq!(with_table(&text, "", ""), Err(BrokenMarkers), "{text}");
        }
    }
}
