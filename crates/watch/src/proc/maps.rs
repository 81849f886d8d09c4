//! `/proc/PID/maps`: which memory lies behind an address, and the file behind that.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use surefault_core::Hva;

use crate::ids::Pid;

/// One mapping of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The first byte.
    pub start: Hva,
    /// The first byte behind it.
    pub end: Hva,
    /// `rw-p` or the like; `s` at the end is shared.
    pub permissions: String,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
    /// The file's inode; 0 for anonymous memory.
    pub inode: u64,
    /// The path, as the kernel tells it: `[heap]`, `/memfd:guest (deleted)`; empty for anonymous
    /// memory.
    pub path: String,
}

impl Mapping {
    /// A line of `maps`; `None` when it is not one.
    pub fn parse(line: &str) -> Option<Mapping> {
        let mut rest = line;
        let mut word = || {
            let trimmed = rest.trim_start_matches(' ');
            let (word, behind) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
            rest = behind;
            (!word.is_empty()).then_some(word)
        };
        let (start, end) = word()?.split_once('-')?;
        let permissions = word()?.to_owned();
        let offset = word()?;
        let _device = word()?;
        let inode = word()?;
        Some(Mapping {
            start: Hva::new(u64::from_str_radix(start, 16).ok()?),
            end: Hva::new(u64::from_str_radix(end, 16).ok()?),
            permissions,
            offset: u64::from_str_radix(offset, 16).ok()?,
            inode: inode.parse().ok()?,
            path: rest.trim_start_matches(' ').to_owned(),
        })
    }

    /// Whether `hva` lies in it.
    pub fn contains(&self, hva: Hva) -> bool {
        self.start <= hva && hva < self.end
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.end.get().saturating_sub(self.start.get())
    }

    /// Never: the kernel has no empty mappings.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in the file `hva` lies, which must be in the mapping.
    pub fn file_offset(&self, hva: Hva) -> u64 {
        let inside = hva.get().saturating_sub(self.start.get());
        self.offset.saturating_add(inside)
    }

    /// Where in the file the mapping ends.
    pub fn file_end(&self) -> u64 {
        self.offset.saturating_add(self.len())
    }

    /// Whether there is a file behind it.
    pub fn has_file(&self) -> bool {
        self.inode != 0
    }

    /// Whether the file has no name any more: deleted, or a memfd.
    pub fn is_deleted(&self) -> bool {
        self.path.ends_with(" (deleted)")
    }
}

/// All mappings of a process.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn all(pid: Pid) -> io::Result<Vec<Mapping>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps.lines().filter_map(Mapping::parse).collect())
}

/// The mapping that `hva` lies in; `None` when there is none.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn find(pid: Pid, hva: Hva) -> io::Result<Option<Mapping>> {
    let mut mappings = all(pid)?.into_iter();
    Ok(mappings.find(|mapping| mapping.contains(hva)))
}

/// A path by which the mapping's file can be opened from here, whether it has a name or not.
///
/// `map_files` is exact, but takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; a descriptor that the
/// process still holds is as good; the name, seen from the process's root, may meanwhile be that of
/// another file, so the inode is compared.
pub fn openable(pid: Pid, mapping: &Mapping) -> Option<PathBuf> {
    let (start, end) = (mapping.start.get(), mapping.end.get());
    let exact = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    if fs::metadata(&exact).is_ok() {
        return Some(exact);
    }
    let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.ino() == mapping.inode);
    held(pid, mapping).or_else(|| {
        let named = PathBuf::from(format!("/proc/{pid}/root{}", mapping.path));
        Some(named).filter(is_it)
    })
}

/// A path by which an operator can get at the mapping's file: its name, or a descriptor that the
/// process holds.
pub fn nameable(pid: Pid, mapping: &Mapping) -> Option<PathBuf> {
    match mapping.is_deleted() {
        true => held(pid, mapping).or_else(|| openable(pid, mapping)),
        false => Some(PathBuf::from(&mapping.path)),
    }
}

/// `/proc/PID/fd/N` when the process has the mapping's file open.
fn held(pid: Pid, mapping: &Mapping) -> Option<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let target = PathBuf::from(&mapping.path);
    paths
        .filter(|path| fs::read_link(path).is_ok_and(|link| link == target))
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() == mapping.inode))
}

/// The mappings of a process that a userfaultfd watches, by the flags in `smaps` (`um`, `uw`,
/// `ui`). Slow for a large process: the kernel counts its pages for this.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn watched_by_userfaultfd(pid: Pid) -> io::Result<Vec<Mapping>> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(watched(&smaps))
}

fn watched(smaps: &str) -> Vec<Mapping> {
    let mut watched = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let is_watched = flags
                .split_whitespace()
                .any(|flag| matches!(flag, "um" | "uw" | "ui"));
            watched.extend(current.take().filter(|_| is_watched));
        } else if let Some(mapping) = Mapping::parse(line) {
            current = Some(mapping);
        }
    }
    watched
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f1200000000-7f1200008000 rw-s 00001000 00:01 1034                       /memfd:my guest (deleted)
Size:                 32 kB
KernelPageSize:        4 kB
VmFlags: rd wr sh mr mw me ms um sd
7f1300000000-7f1300002000 rw-p 00000000 00:00 0
Size:                  8 kB
VmFlags: rd wr mr mw me ac sd
";

    #[test]
    fn a_line_is_understood() {
        let mapping = Mapping::parse(SMAPS.lines().next().expect("a line")).expect("a mapping");
        assert_eq!(mapping.path, "/memfd:my guest (deleted)");
        assert!(mapping.is_deleted() && mapping.has_file());
        assert_eq!(mapping.len(), 0x8000);
        assert_eq!(mapping.file_offset(Hva::new(0x7f12_0000_3000)), 0x4000);
        assert_eq!(mapping.file_end(), 0x9000);
        assert!(mapping.contains(Hva::new(0x7f12_0000_7fff)));
        assert!(!mapping.contains(Hva::new(0x7f12_0000_8000)));
    }

    #[test]
    fn anonymous_memory_has_no_path() {
        let line = "7f1300000000-7f1300002000 rw-p 00000000 00:00 0 ";
        let mapping = Mapping::parse(line).expect("a mapping");
        assert!(mapping.path.is_empty() && !mapping.has_file());
        for bad in ["", "Size:  8 kB", "7f-zz rw-p 0 0:0 0", "7f00-8000 rw-p"] {
            assert_eq!(Mapping::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn watched_mappings_are_found() {
        let starts: Vec<Hva> = watched(SMAPS).iter().map(|m| m.start).collect();
        assert_eq!(starts, [Hva::new(0x7f12_0000_0000)]);
    }

    #[test]
    fn our_own_memory_is_found() {
        let here = Pid::new(std::process::id());
        let local = 0_u8;
        let hva = Hva::new(std::ptr::from_ref(&local) as u64);
        let mapping = find(here, hva).expect("maps").expect("a mapping");
        assert!(mapping.permissions.starts_with("rw"));
        assert!(find(here, Hva::new(1)).expect("maps").is_none());
    }
}
