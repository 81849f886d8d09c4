use std::convert::Infallible;

use super::*;

fn touch(page: u32, first: FirstTouch) -> Touch {
    Touch {
        page: PageIndex::new(page),
        first,
    }
}

#[test]
fn a_partition_touches_every_page_once() {
    for (pages, tasks) in [(4, 1), (4, 16), (1000, 7)] {
        let workload = Workload::partition(PageCount::new(pages), tasks, 3);
        assert_eq!(workload.tasks().len(), usize::from(tasks));
        let mut seen: Vec<_> = workload.tasks().concat();
        seen.sort_unstable_by_key(|touch| touch.page);
        let indexes: Vec<_> = seen
            .iter()
            .map(|touch| u64::from(touch.page.get()))
            .collect();
        assert_eq!(indexes, (0..pages).collect::<Vec<_>>());
        assert!(Workload::new(workload.pages(), workload.tasks().to_vec()).is_ok());
    }
}

#[test]
fn a_partition_writes_about_a_quarter_and_depends_on_the_seed() {
    let of = |seed| Workload::partition(PageCount::new(4096), 1, seed);
    let writes = of(1).tasks()[0]
        .iter()
        .filter(|touch| touch.first == FirstTouch::Write)
        .count();
    assert!((800..1250).contains(&writes), "{writes}");
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn a_workload_has_one_possible_outcome() {
    let pages = PageCount::new(2);
    let new = |tasks| Workload::new(pages, tasks);
    use FirstTouch::{Read, Write};
    assert!(new(vec![vec![touch(0, Read)], vec![touch(0, Read)]]).is_ok());
    assert!(new(vec![vec![touch(0, Write), touch(0, Read)]]).is_ok());
    assert!(matches!(
        new(vec![vec![touch(1, Read)], vec![touch(1, Write)]]),
        Err(WorkloadError::SharedWrite { page, .. }) if page == PageIndex::new(1)
    ));
    assert!(matches!(
        new(vec![vec![touch(2, Read)]]),
        Err(WorkloadError::NoSuchPage { .. })
    ));
}

#[test]
fn a_sum_sees_each_word_of_each_page_and_the_stamps_of_its_own_task() {
    let source = |page: PageIndex, buffer: &mut [u8]| {
        buffer.fill(page.get() as u8 + 1);
        Ok::<_, Infallible>(())
    };
    let list = vec![
        touch(0, FirstTouch::Read),
        touch(1, FirstTouch::Write),
        touch(0, FirstTouch::Write),
        touch(1, FirstTouch::Read),
    ];
    let workload = Workload::new(PageCount::new(2), vec![list]).unwrap();
    let buffer = &mut [0; 512];
    let task = TaskId::new(0);
    let Ok(sums) = (0..=4)
        .map(|count| workload.sum_after(task, count, buffer, source))
        .collect::<Result<Vec<_>, _>>();

    let page = |index: u32, stamped: bool| {
        let mut bytes = [index as u8 + 1; 512];
        if stamped {
            write_stamp(&mut bytes, PageIndex::new(index));
        }
        page_sum(&bytes)
    };
    assert_eq!(sums[0], SUM_START);
    assert_eq!(sums[1], fold(sums[0], page(0, false)));
    assert_eq!(sums[2], fold(sums[1], page(1, true)));
    assert_eq!(sums[3], fold(sums[2], page(0, true)));
    assert_eq!(sums[4], fold(sums[3], page(1, true)));
}

#[test]
fn no_word_of_a_page_is_forgotten() {
    let whole = page_sum(&[7; 512]);
    for word in 0..64 {
        let mut bytes = [7; 512];
        bytes[word * 8] ^= 0x80;
        assert_ne!(page_sum(&bytes), whole, "word {word}");
    }
}
