//! Simulated faults a second: the workload `crowd` under `exact`, from boot to the last task.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use surefault_core::policy::PolicyKind;
use surefault_sim::run;
use surefault_sim::workloads::{WorkloadKind, spec};

fn crowd(c: &mut Criterion) {
    let kind = WorkloadKind::Crowd;
    let spec = spec(kind, kind.size(), PolicyKind::Exact, 1).expect("its own size");
    let faults = run(&spec).expect("a spec that makes sense").counts.faults;
    let mut group = c.benchmark_group("crowd");
    group.throughput(Throughput::Elements(faults));
    group.bench_function("exact", |b| b.iter(|| black_box(run(black_box(&spec)))));
    group.finish();
}

criterion_group!(benches, crowd);
criterion_main!(benches);
