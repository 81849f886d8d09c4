//! Writes the archive a kernel unpacks as its first root: cpio, format "newc".
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` in Linux.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const SYMLINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction. Parents must be added before what is in them.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    pub(crate) fn executable(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, EXECUTABLE, (0, 0), content)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    pub(crate) fn character_device(&mut self, path: &str, device: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE, device, &[])
    }

    /// Ends the archive and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = u32::MAX; // the trailer's number is 0, after the wrap below
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// A header of 13 hexadecimal fields, the name, the content; both padded to four bytes.
    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.inode = self.inode.wrapping_add(1);
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned()))?;
        let name_size = u32::try_from(path.len() + 1)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, path.to_owned()))?;
        let links = if mode & 0o170_000 == DIRECTORY & 0o170_000 {
            2
        } else {
            1
        };
        self.out.write_all(b"070701")?;
        for field in [
            self.inode, mode, 0, // uid
            0, // gid
            links, 0, // mtime: the same input gives the same archive
            size, 0, // the device it came from: major
            0, // minor
            device.0, device.1, name_size, 0, // checksum, unused in this format
        ] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back as the kernel does: `(path, mode, content)`.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            let (header, _) = bytes.split_at(110);
            let header = std::str::from_utf8(header).unwrap();
            assert!(header.starts_with("070701"));
            let field = |n: usize| {
                u32::from_str_radix(&header[6 + n * 8..14 + n * 8], 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1) as u32, field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(bytes.len(), content);
                return entries;
            }
            entries.push((
                name.to_owned(),
                mode,
                bytes[content..content + size].to_vec(),
            ));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_was_written_is_read_back_whatever_its_alignment() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").unwrap();
        for length in 0..9 {
            let name = format!("bin/{}", "x".repeat(length + 1));
            archive.executable(&name, &vec![b'a'; length]).unwrap();
        }
        archive.symlink("sh", "bin/busybox").unwrap();
        archive.character_device("console", (5, 1)).unwrap();
        let bytes = archive.finish().unwrap();

        let entries = read(&bytes);
        assert_eq!(entries.len(), 12);
        assert_eq!(entries[0], ("bin".into(), DIRECTORY, vec![]));
        assert_eq!(
            entries[5],
            ("bin/xxxxx".into(), EXECUTABLE, b"aaaa".to_vec())
        );
        assert_eq!(entries[10].2, b"bin/busybox");
        assert_eq!(entries[11].1, CHARACTER_DEVICE);
    }

    #[test]
    fn the_same_input_gives_the_same_archive() {
        let build = || {
            let mut archive = Archive::new(Vec::new());
            archive.executable("init", b"#!/bin/sh\n").unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(build(), build());
    }
}
