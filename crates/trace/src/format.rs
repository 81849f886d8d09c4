//! `format` and `header_page` files: where in a record which field lies.

use crate::error::FormatError;

/// An integer field: where it lies and how to read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    offset: usize,
    size: usize,
    signed: bool,
}

impl Field {
    /// The field's value, sign-extended when it is signed; `None` when `record` ends before it.
    pub fn read(self, record: &[u8]) -> Option<u64> {
        let bytes = record.get(self.offset..self.offset.checked_add(self.size)?)?;
        let mut wide = [0; 8];
        wide.get_mut(..self.size)?.copy_from_slice(bytes);
        let value = u64::from_le_bytes(wide);
        let unused = 64 - 8 * self.size as u32;
        Some(match self.signed {
            true => ((value << unused) as i64 >> unused) as u64,
            false => value,
        })
    }
}

/// A line `field: …` of a description.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line<'a> {
    name: &'a str,
    offset: usize,
    size: usize,
    signed: bool,
    /// Names where in the record the value lies, and is not the value.
    dynamic: bool,
}

/// Fields, by name, as a `format` or `header_page` file lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lines<'a>(Vec<Line<'a>>);

impl<'a> Lines<'a> {
    /// Takes the lines that describe fields; others are for other readers.
    fn parse(text: &'a str) -> Lines<'a> {
        Lines(text.lines().filter_map(parse_line).collect())
    }

    fn find(&self, name: &str) -> Result<&Line<'a>, FormatError> {
        let found = self.0.iter().find(|line| line.name == name);
        found.ok_or_else(|| FormatError::NoField {
            field: name.to_owned(),
        })
    }

    fn integer(&self, name: &str) -> Result<Field, FormatError> {
        let line = self.find(name)?;
        match line.size {
            1 | 2 | 4 | 8 if !line.dynamic => Ok(Field {
                offset: line.offset,
                size: line.size,
                signed: line.signed,
            }),
            size => Err(FormatError::NotAnInteger {
                field: name.to_owned(),
                size,
            }),
        }
    }
}

/// `field:unsigned long address; offset:8; size:8; signed:0;`, with tabs between the parts.
fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let name = declaration.split_whitespace().next_back()?;
    let name = name.split('[').next()?.trim_start_matches('*');
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse::<usize>().ok();
    let offset = number("offset:")?;
    let size = number("size:")?;
    // Absent before Linux 2.6.32, and in descriptions of arrays of some versions.
    let signed = number("signed:").unwrap_or(0) != 0;
    Some(Line {
        name,
        offset,
        size,
        signed,
        dynamic: declaration.contains("__data_loc") || declaration.contains("__rel_loc"),
    })
}

/// An event's `format` file, as far as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventFormat {
    /// The number by which records name the event.
    pub id: u16,
    /// The process (a thread's id) that ran when the event happened.
    pub pid: Field,
    /// The fields that were asked for, in that order.
    pub fields: Vec<Field>,
}

impl EventFormat {
    /// Understands the text of a `format` file, and finds `fields` in it.
    ///
    /// # Errors
    /// [`FormatError`] when one is missing or not an integer.
    pub fn parse(text: &str, fields: &[&str]) -> Result<EventFormat, FormatError> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID:"));
        let id = id.and_then(|id| id.trim().parse().ok());
        let lines = Lines::parse(text);
        Ok(EventFormat {
            id: id.ok_or(FormatError::NoId)?,
            pid: lines.integer("common_pid")?,
            fields: fields
                .iter()
                .map(|name| lines.integer(name))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// `events/header_page`: the head of each page of the ring buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// The time of the page's first record.
    pub timestamp: Field,
    /// The length of what is in the page, and flags.
    pub commit: Field,
    /// Where the records start.
    pub data: usize,
    /// The whole page's length in bytes.
    pub page_len: usize,
}

impl PageHeader {
    /// Understands the text of `events/header_page`.
    ///
    /// # Errors
    /// [`FormatError`] when a field is missing or not an integer.
    pub fn parse(text: &str) -> Result<PageHeader, FormatError> {
        let lines = Lines::parse(text);
        let data = lines.find("data")?;
        Ok(PageHeader {
            timestamp: lines.integer("timestamp")?,
            commit: lines.integer("commit")?,
            data: data.offset,
            page_len: data.offset + data.size,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const READY: &str = "name: kvm_async_pf_ready
ID: 33
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__u64 token;\toffset:8;\tsize:8;\tsigned:0;
\tfield:__u64 gva;\toffset:16;\tsize:8;\tsigned:0;

print fmt: \"token %#llx gva %#llx\", REC->token, REC->gva
";

    pub(crate) const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;
";

    #[test]
    fn an_event_is_understood() {
        let format = EventFormat::parse(READY, &["gva", "token"]).expect("parse");
        assert_eq!(format.id, 33);
        let mut record = [0; 24];
        record[4..8].copy_from_slice(&(-2_i32).to_le_bytes());
        record[8..16].copy_from_slice(&0x1002_u64.to_le_bytes());
        record[16..24].copy_from_slice(&0xffff_8000_0000_0000_u64.to_le_bytes());
        assert_eq!(format.pid.read(&record), Some(-2_i64 as u64));
        assert_eq!(format.fields[0].read(&record), Some(0xffff_8000_0000_0000));
        assert_eq!(format.fields[1].read(&record), Some(0x1002));
        assert_eq!(format.fields[0].read(&record[..23]), None);
    }

    #[test]
    fn the_page_header_is_understood() {
        let header = PageHeader::parse(HEADER_PAGE).expect("parse");
        assert_eq!((header.data, header.page_len), (16, 4096));
        assert_eq!((header.commit.offset, header.commit.size), (8, 8));
    }

    #[test]
    fn pointers_and_arrays_have_their_plain_names() {
        let text = "field:char * name;\toffset:8;\tsize:8;\tsigned:0;\n\
                    field:u8 insn[15];\toffset:16;\tsize:15;\tsigned:0;";
        let lines = Lines::parse(text);
        assert_eq!(lines.find("name").expect("name").offset, 8);
        assert_eq!(
            lines.integer("insn"),
            Err(FormatError::NotAnInteger {
                field: "insn".into(),
                size: 15
            })
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let without_id = READY.replace("ID: 33", "");
        assert_eq!(EventFormat::parse(&without_id, &[]), Err(FormatError::NoId));
        let error = EventFormat::parse(READY, &["gfn"]).expect_err("no such field");
        assert_eq!(error.to_string(), "there is no field gfn");
        assert!(PageHeader::parse("nothing").is_err());
    }
}
