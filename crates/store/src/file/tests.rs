use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::thread::set_thread_res_uid;
use tempfile::TempDir;

use super::*;
use crate::PatternStore;

const PAGE: usize = 4096;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A file of `len` bytes of the pattern of seed 3.
fn file_of(directory: &TempDir, len: usize) -> PathBuf {
    let mut bytes = vec![0; len];
    let pattern = PatternStore::new(3, len as u64);
    pattern
        .read(ReadRequest::first(0), &mut bytes)
        .expect("patterns do not fail");
    let path = directory.path().join("memory");
    std::fs::write(&path, bytes).expect("write");
    path
}

fn open(path: &Path, needed: u64) -> Result<FileStore, OpenError> {
    FileStore::open(path, PageSize::KIB_4, needed)
}

fn refusal(path: &Path) -> OpenError {
    let error = open(path, PAGE as u64).expect_err("refused");
    let name = path.display().to_string();
    assert!(error.to_string().contains(&name), "{error}");
    error
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = directory();
    let inside = |name: &str| directory.path().join(name);
    let kind_of = |path: &Path| match refusal(path) {
        OpenError::NotAFile { kind, .. } => kind,
        other => panic!("{other}"),
    };
    assert!(matches!(
        refusal(&inside("none")),
        OpenError::Missing { .. }
    ));
    assert_eq!(kind_of(directory.path()), FileKind::Directory);
    assert_eq!(kind_of(Path::new("/dev/zero")), FileKind::CharacterDevice);
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, inside("fifo"), FileType::Fifo, mode, 0).expect("mkfifo");
    assert_eq!(kind_of(&inside("fifo")), FileKind::Fifo);
    let _listener = UnixListener::bind(inside("socket")).expect("bind");
    assert_eq!(kind_of(&inside("socket")), FileKind::Socket);
}

#[test]
fn files_of_the_wrong_size_are_refused() {
    let directory = directory();
    let path = file_of(&directory, 0);
    assert!(matches!(refusal(&path), OpenError::Empty { .. }));
    let path = file_of(&directory, PAGE + 1);
    assert_eq!(
        refusal(&path).to_string(),
        format!(
            "{} has 4097 bytes, which is not a multiple of the page size, 4 KiB",
            path.display()
        )
    );
    let path = file_of(&directory, PAGE);
    let error = open(&path, 2 * PAGE as u64).expect_err("too small");
    assert_eq!(
        error.to_string(),
        format!("{} has 4096 bytes, and 8192 are needed", path.display())
    );
    assert!(open(&path, PAGE as u64).is_ok());
}

#[test]
fn an_unreadable_file_is_refused() {
    let directory = directory();
    let path = file_of(&directory, PAGE);
    let nothing = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(&path, nothing).expect("chmod");
    // A thread of its own, which gives up being root if it is.
    let error = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody).expect("setresuid");
        }
        refusal(&path)
    });
    let error = error.join().expect("no panic");
    assert!(matches!(error, OpenError::Permission { .. }), "{error}");
}

#[test]
fn a_file_may_be_cut_short_while_it_is_read() {
    let directory = directory();
    let path = file_of(&directory, 4 * PAGE);
    let store = open(&path, 4 * PAGE as u64).expect("open");
    let mut page = vec![0; PAGE];
    let page_1 = ReadRequest::first(PAGE as u64);
    assert_eq!(store.read(page_1, &mut page), Ok(()));

    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(6144).expect("ftruncate");
    let error = store.read(page_1, &mut page).expect_err("cut short");
    assert_eq!(
        error,
        StoreError::Truncated {
            source_name: path.display().to_string(),
            found: 6144,
            needed: 8192,
        }
    );
    assert!(!matches!(store.read_now(page_1, &mut page), Some(Ok(()))));
    // Past the end altogether: still the size found, not where the read began.
    let error = store.read(ReadRequest::first(3 * PAGE as u64), &mut page);
    assert!(matches!(
        error,
        Err(StoreError::Truncated {
            found: 6144,
            needed: 16384,
            ..
        })
    ));
    // What is left can be read, and the size is that of the opening.
    assert_eq!(store.read(ReadRequest::first(0), &mut page), Ok(()));
    assert_eq!(store.size(), 4 * PAGE as u64);
}

#[test]
fn many_threads_read_at_once() {
    const PAGES: usize = 64;
    let directory = directory();
    let path = file_of(&directory, PAGES * PAGE);
    let store = Arc::new(open(&path, 0).expect("open"));
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let store = store.clone();
            std::thread::spawn(move || {
                let mut page = vec![0; PAGE];
                for step in 0..PAGES {
                    let offset = ((step * 7 + reader * 11) % PAGES * PAGE) as u64;
                    let request = ReadRequest::first(offset);
                    match store.read_now(request, &mut page) {
                        Some(answer) => answer,
                        None => store.read(request, &mut page),
                    }
                    .expect("read");
                    let word = PatternStore::word(3, offset).to_le_bytes();
                    assert_eq!(page[..8], word, "page at {offset}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("no panic");
    }
}
