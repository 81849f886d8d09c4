//! A file that is cut short while it is served.

use std::sync::Arc;

use surefault_core::CauseKind;
use surefault_store::{FileStore, ReadRequest, Store};
use surefault_testkit::{Backing, page_size};

use crate::served::{Served, check, host_page, page_id, patient, pattern};

crate::cases![a_truncated_file];

fn a_truncated_file() {
    let mut bytes = vec![0; 16 * page_size()];
    let read = pattern(16).read(ReadRequest::first(0), &mut bytes);
    read.expect("the pattern");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &bytes).expect("write");
    let store = FileStore::open(file.path(), host_page(), bytes.len() as u64).expect("the file");
    let served = Served::new(Backing::Anonymous, 16, Arc::new(store), &patient());
    check(&served.mapping, 12, 12);
    let half = 10 * page_size() + 100;
    file.as_file().set_len(half as u64).expect("truncate");
    check(&served.mapping, 9, 9);
    for page in [10, 14] {
        let failure = served.fails(page);
        assert_eq!(failure.cause.kind, CauseKind::Truncated);
        let text = served.pager.cause_text(failure.cause);
        let needed = (page + 1) * page_size();
        assert_eq!(
            text,
            format!(
                "{} is too short: it has {half} bytes, and {needed} are needed",
                file.path().display()
            )
        );
    }
    check(&served.mapping, 12, 12);
    std::fs::write(file.path(), &bytes).expect("write");
    assert_eq!(served.pager.heal(page_id(0), 16), 2);
    (0..16).for_each(|page| check(&served.mapping, page, page));
}
