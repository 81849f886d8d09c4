//! What was found, for programs.

use serde::Serialize;
use surefault_watch::Snapshot;

use crate::json::SCHEMA;

/// The one object that is written.
#[derive(Serialize, Debug)]
pub(super) struct Watched<'a> {
    schema: u32,
    command: &'static str,
    outcome: Outcome,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

#[derive(Serialize, Clone, Copy, Debug)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Found,
    Healthy,
}

impl<'a> Watched<'a> {
    /// `found` also when it is over by now.
    pub(super) fn of(snapshot: &'a Snapshot, found: bool) -> Watched<'a> {
        Watched {
            schema: SCHEMA,
            command: "watch",
            outcome: match found {
                true => Outcome::Found,
                false => Outcome::Healthy,
            },
            snapshot,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use surefault_core::{Gfn, Gva, Hva, VcpuId};
    use surefault_watch::diagnose::Holder;
    use surefault_watch::proc::thread::Wait;
    use surefault_watch::{Cause, CauseKind, Frozen, Lack, Pid, Stats, Stuck, Tid};

    use super::*;
    use crate::json::fields::{DOCS, assert_described};

    fn cause(kind: CauseKind) -> Cause {
        Cause {
            kind,
            text: "the file has 12288 bytes".to_owned(),
            remedy: "extend it".to_owned(),
        }
    }

    fn snapshot() -> Snapshot {
        let (pid, tid) = (Pid::new(10), Tid::new(11));
        Snapshot {
            stuck: vec![Stuck {
                pid,
                tid,
                comm: "CPU 3/KVM".to_owned(),
                vcpu: Some(VcpuId::new(3)),
                gfn: Gfn::new(0x203),
                gva: Gva::new(0x20_3000),
                hva: Some(Hva::new(0x7f12_0000_3000)),
                path: Some("/dev/shm/guest".to_owned()),
                offset: Some(0x3000),
                cause: cause(CauseKind::Truncated),
                retries: 2900,
                since: Duration::from_millis(100),
                faults_per_second: Some(29_000),
            }],
            frozen: vec![Frozen {
                pid,
                tid,
                comm: "fc_vcpu 0".to_owned(),
                vcpu: None,
                wait: Wait::Userfault,
                function: "handle_userfault".to_owned(),
                gfn: None,
                gva: None,
                path: None,
                holders: vec![Holder {
                    pid,
                    comm: "firecracker".to_owned(),
                    state: 'S',
                    fd: 7,
                }],
                cause: cause(CauseKind::HandlerGone),
                since: Duration::from_secs(7),
            }],
            lacks: vec![Lack {
                part: "rates",
                reason: "not root".to_owned(),
                remedy: "be root",
            }],
            stats: Stats::default(),
        }
    }

    #[test]
    fn every_field_is_described() {
        let snapshot = snapshot();
        let value = serde_json::to_value(Watched::of(&snapshot, true)).unwrap();
        assert_eq!(value["outcome"], "found");
        assert_eq!(value["stuck"][0]["since_ns"], 100_000_000);
        assert_described("surefault watch", &value, &[]);
    }

    #[test]
    fn every_kind_of_cause_is_described() {
        for kind in [
            CauseKind::Truncated,
            CauseKind::NoSpace,
            CauseKind::HugetlbExhausted,
            CauseKind::Poisoned,
            CauseKind::Userfaultfd,
            CauseKind::HandlerGone,
            CauseKind::HandlerSilent,
            CauseKind::Io,
            CauseKind::Swap,
            CauseKind::NotMapped,
            CauseKind::Access,
            CauseKind::Unknown,
        ] {
            let quoted = format!("`\"{kind}\"`");
            assert!(DOCS.contains(&quoted), "{quoted}");
        }
    }
}
