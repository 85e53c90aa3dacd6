//! Synthetic results with known answers, shaped like those of a real run: the figures are those of prior-art.md
//! and kvm-substrates.md, with noise of a stated size around them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses its own part of this module, and none exports it"
)]

use std::collections::BTreeMap;

use reports::results::{
    Arm, ArmKind, ArmStatus, Completeness, CutOff, Direction, Fingerprint, Group, ImageUnderTest,
    MemoryPoint, MemorySeries, Metric, Plan, Results, Sample, Stage, Substrate, Timeline, Twin,
    Unit, arm_id, metric_id,
};
use reports::stats::Rng;

/// What the virtual machines of a synthetic host stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// svm: one arm, hardware.
    Hardware,
    /// kvm_pvm and tcg: two arms, neither hardware.
    Emulated,
    /// None could run.
    None,
}

/// How a synthetic run is to come out.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Rounds of every metric.
    pub rounds: u32,
    /// Standard deviation of the logarithm of a sample.
    pub noise: f64,
    /// What the container costs, as a factor on every metric of steady work.
    pub container: f64,
    /// What the container costs on single metrics, instead of [`Shape::container`].
    pub container_on: Vec<(&'static str, f64)>,
    /// What the hardware VM costs on single metrics; 1.02 elsewhere.
    pub vm_on: Vec<(&'static str, f64)>,
    /// What the A/A control is off by, on single metrics.
    pub control_on: Vec<(&'static str, f64)>,
    /// Time to the container's first byte, nanoseconds.
    pub container_start: f64,
    /// Time to the hardware VM's first byte, nanoseconds.
    pub vm_start: f64,
    /// The virtual machines.
    pub machines: Machines,
    /// Groups that were not measured.
    pub without: Vec<Group>,
    /// Peers, voids, cut-offs, timelines and memory, as a real run has them.
    pub furnished: bool,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rounds: 20,
            noise: 0.01,
            container: 1.0,
            container_on: Vec::new(),
            vm_on: Vec::new(),
            control_on: Vec::new(),
            container_start: 5.6e6,
            vm_start: 480e6,
            machines: Machines::Hardware,
            without: Vec::new(),
            furnished: false,
            seed: 2,
        }
    }
}

struct Work {
    metric: Metric,
    native: f64,
    pvm: f64,
    tcg: f64,
}

fn metric(id: &str, group: Group, unit: Unit, title: &str, description: &str) -> Metric {
    Metric {
        id: id.to_owned(),
        group,
        unit,
        direction: match unit {
            Unit::OperationsPerSecond | Unit::BytesPerSecond | Unit::FlopsPerSecond => {
                Direction::HigherIsBetter
            }
            _ => Direction::LowerIsBetter,
        },
        title: title.to_owned(),
        description: description.to_owned(),
    }
}

/// The steady work: native's value, and what it costs on kvm_pvm and under tcg.
fn steady() -> Vec<Work> {
    use Group::{Cpu, File, Kernel, Memory};
    use Unit::{BytesPerSecond, FlopsPerSecond, NanosecondsPerOperation as PerOp};
    let work = |id, group, unit, title, native, pvm, tcg, description: &str| Work {
        metric: metric(id, group, unit, title, description),
        native,
        pvm,
        tcg,
    };
    vec![
        work(
            "cpu.sha256",
            Cpu,
            BytesPerSecond,
            "SHA-256, one thread",
            412e6,
            1.01,
            9.8,
            "Hashes a 1 MiB buffer again and again; baseline instructions only.",
        ),
        work(
            "cpu.matrix",
            Cpu,
            FlopsPerSecond,
            "Matrix product",
            3.1e9,
            1.02,
            14.2,
            "Multiplies 256×256 matrices of doubles in blocks.",
        ),
        work(
            "memory.triad",
            Memory,
            BytesPerSecond,
            "STREAM triad",
            11.2e9,
            1.03,
            6.1,
            "a[i] = b[i] + s·c[i] over three arrays of 64 MiB.",
        ),
        work(
            "memory.fault",
            Memory,
            PerOp,
            "First touch of a page",
            410.0,
            2100.0,
            12.0,
            "Maps 16 MiB and touches each page once.",
        ),
        work(
            "kernel.getpid",
            Kernel,
            PerOp,
            "getpid",
            92.0,
            9200.0,
            3.2,
            "The bare system call, without the library's cache.",
        ),
        work(
            "kernel.pipe",
            Kernel,
            PerOp,
            "Pipe ping-pong",
            5200.0,
            1300.0,
            4.4,
            "One byte to a child and back through two pipes.",
        ),
        work(
            "kernel.fork-exec",
            Kernel,
            PerOp,
            "fork + exec + wait",
            620e3,
            900.0,
            6.6,
            "Starts a static program that exits at once, and waits for it.",
        ),
        work(
            "file.image.read-seq",
            File,
            BytesPerSecond,
            "Image: sequential read, O_DIRECT",
            2.4e9,
            1500.0,
            3.9,
            "Reads a 64 MiB file of the image in 1 MiB pieces, from the page cache.",
        ),
        work(
            "file.layer.write-seq",
            File,
            BytesPerSecond,
            "Writable layer: sequential write, O_DIRECT",
            310e6,
            210.0,
            2.2,
            "Writes 64 MiB to the writable layer in 1 MiB pieces.",
        ),
        work(
            "file.layer.read-rand",
            File,
            PerOp,
            "Writable layer: random read, O_DIRECT",
            2900.0,
            420.0,
            3.3,
            "Reads 4 KiB at random places of a 64 MiB file, buffered.",
        ),
        work(
            "file.layer.fsync",
            File,
            PerOp,
            "Writable layer: write + fsync",
            1.9e6,
            8.0,
            1.8,
            "Writes 4 KiB and waits for fsync.",
        ),
    ]
}

fn arm(id: &str, label: &str, kind: ArmKind) -> Arm {
    Arm {
        id: id.to_owned(),
        label: label.to_owned(),
        kind,
        substrate: None,
        control_of: None,
        twin_of: None,
        versions: BTreeMap::new(),
        omits: Vec::new(),
        status: ArmStatus::Ran,
    }
}

fn machine(id: &str, label: &str, substrate: &str, hardware: bool) -> Arm {
    Arm {
        substrate: Some(Substrate {
            name: substrate.to_owned(),
            hardware,
        }),
        ..arm(id, label, ArmKind::Vm)
    }
}

/// A run of this shape.
pub fn results(shape: &Shape) -> Results {
    let mut run = Results::new(
        "plimsoll 0.1.0 (synthetic)",
        1_763_952_480_000,
        Plan {
            name: "default".to_owned(),
            rounds: shape.rounds,
            instances: 5,
            arm_budget_ns: 60_000_000_000,
            run_budget_ns: Some(900_000_000_000),
            filter: None,
        },
    );
    run.ended_unix_ms = Some(run.started_unix_ms + 754_000);
    run.completeness = Completeness::Complete;
    run.seeds = BTreeMap::from([("order".to_owned(), 7), ("bootstrap".to_owned(), 11)]);
    run.image = Some(ImageUnderTest {
        name: "plimsoll/base:latest".to_owned(),
        digest: format!("sha256:{}", "5d8e".repeat(16)),
        cpus: Some("1".to_owned()),
        memory_bytes: Some(256 << 20),
    });
    run.fingerprint = fingerprint(shape.machines);
    run.arms = arms(shape);
    let mut rng = Rng::new(shape.seed);
    add_steady(&mut run, shape, &mut rng);
    if !shape.without.contains(&Group::Start) {
        add_starts(&mut run, shape, &mut rng);
    }
    if shape.furnished {
        furnish(&mut run, shape, &mut rng);
    }
    run
}

fn arms(shape: &Shape) -> Vec<Arm> {
    let mut arms = vec![
        arm(arm_id::NATIVE, "native", ArmKind::Native),
        Arm {
            control_of: Some(arm_id::NATIVE.to_owned()),
            ..arm(arm_id::NATIVE_CONTROL, "native, again", ArmKind::Native)
        },
        arm(arm_id::CONTAINER, "container", ArmKind::Container),
        Arm {
            twin_of: Some(Twin {
                arm: arm_id::CONTAINER.to_owned(),
                difference: "without the seccomp filter".to_owned(),
            }),
            omits: vec!["no seccomp filter".to_owned()],
            ..arm(
                arm_id::CONTAINER_NO_SECCOMP,
                "container without seccomp",
                ArmKind::Container,
            )
        },
    ];
    match shape.machines {
        Machines::Hardware => arms.push(machine(arm_id::VM, "microVM on KVM", "svm", true)),
        Machines::Emulated => {
            arms.push(machine(arm_id::VM, "microVM on KVM", "kvm_pvm", false));
            arms.push(machine(
                arm_id::VM_TCG,
                "microVM emulated by QEMU",
                "tcg",
                false,
            ));
        }
        Machines::None => arms.push(Arm {
            status: ArmStatus::NotRun {
                reason: "there is no /dev/kvm, and QEMU is not installed".to_owned(),
            },
            ..machine(arm_id::VM, "vm", "none", false)
        }),
    }
    if shape.furnished {
        for (id, label, omits, version) in [
            (
                "bwrap",
                "bubblewrap",
                vec!["no cgroup", "no overlay", "no seccomp filter"],
                "0.8.0",
            ),
            (
                "crun",
                "crun",
                vec!["no overlay", "no seccomp filter"],
                "1.8.1",
            ),
            ("runc", "runc", vec!["no overlay"], "1.1.5"),
            ("podman", "podman", vec![], "4.3.1"),
            ("docker", "docker", vec![], "20.10.24"),
        ] {
            arms.push(Arm {
                omits: omits.into_iter().map(str::to_owned).collect(),
                versions: BTreeMap::from([(id.to_owned(), version.to_owned())]),
                ..arm(id, label, ArmKind::Peer)
            });
        }
        arms.push(Arm {
            status: ArmStatus::NotRun {
                reason: "/usr/bin/runsc is not installed".to_owned(),
            },
            ..arm("runsc", "runsc", ArmKind::Peer)
        });
    }
    arms
}

fn lookup(table: &[(&'static str, f64)], id: &str, otherwise: f64) -> f64 {
    table
        .iter()
        .find(|(wanted, _)| *wanted == id)
        .map_or(otherwise, |(_, factor)| *factor)
}

fn noisy(rng: &mut Rng, value: f64, noise: f64) -> f64 {
    value * (noise * rng.normal()).exp()
}

fn add_steady(run: &mut Results, shape: &Shape, rng: &mut Rng) {
    for work in steady() {
        let id = work.metric.id.clone();
        if shape.without.contains(&work.metric.group) {
            continue;
        }
        // A factor is what the arm costs, so it divides a rate.
        let taken = |factor: f64| match work.metric.direction {
            Direction::LowerIsBetter => work.native * factor,
            Direction::HigherIsBetter => work.native / factor,
        };
        let container = lookup(&shape.container_on, &id, shape.container);
        let unfiltered = if work.metric.group == Group::Kernel && shape.furnished {
            container / 1.28
        } else {
            container
        };
        for round in 0..shape.rounds {
            // The machine drifts by 10 % over the run, for every arm alike.
            let drift = 1.0 + 0.1 * f64::from(round) / f64::from(shape.rounds);
            let order: Vec<String> = run.arms.iter().map(|arm| arm.id.clone()).collect();
            for arm in order.iter().chain(order.iter().rev()) {
                let factor = match (arm.as_str(), shape.machines) {
                    (arm_id::NATIVE, _) => 1.0,
                    (arm_id::NATIVE_CONTROL, _) => lookup(&shape.control_on, &id, 1.0),
                    (arm_id::CONTAINER, _) => container,
                    (arm_id::CONTAINER_NO_SECCOMP, _) => unfiltered,
                    (arm_id::VM, Machines::Hardware) => lookup(&shape.vm_on, &id, 1.02),
                    (arm_id::VM, Machines::Emulated) => work.pvm,
                    (arm_id::VM_TCG, _) => work.tcg,
                    _ => continue,
                };
                let value = noisy(rng, taken(factor * drift), shape.noise);
                let elapsed = 50e6 * factor.min(20.0) * drift;
                run.record(
                    &id,
                    round,
                    Sample {
                        arm: arm.clone(),
                        instance: round % 5,
                        value: Some(value),
                        iterations: Some(1000),
                        elapsed_ns: Some(elapsed as u64),
                        host_ns: Some((elapsed * 1.001) as u64 + 40_000),
                        void: None,
                    },
                );
            }
        }
        run.metrics.push(work.metric);
    }
}

fn add_starts(run: &mut Results, shape: &Shape, rng: &mut Rng) {
    let arms: Vec<(String, ArmKind)> = run
        .arms
        .iter()
        .filter(|arm| arm.ran())
        .map(|arm| (arm.id.clone(), arm.kind))
        .collect();
    let conditions = [
        (
            metric_id::START_WARM_FIRST_BYTE,
            "Start, warm, to the first byte",
            1.0,
            0.0,
        ),
        (
            metric_id::START_WARM_EXIT,
            "Start, warm, to exit",
            1.0,
            0.6e6,
        ),
        (
            metric_id::START_COLD_FIRST_BYTE,
            "Start, cold, to the first byte",
            1.9,
            3e6,
        ),
        (
            metric_id::START_COLD_EXIT,
            "Start, cold, to exit",
            1.9,
            3.7e6,
        ),
    ];
    for (id, title, factor, more) in conditions {
        run.metrics.push(metric(
            id,
            Group::Start,
            Unit::Nanoseconds,
            title,
            "From just before the launcher is spawned, with nothing else running.",
        ));
        for round in 0..shape.rounds {
            for (arm, kind) in arms.iter().chain(arms.iter().rev()) {
                let first_byte = match (arm.as_str(), shape.machines) {
                    (arm_id::CONTAINER, _) => shape.container_start,
                    (arm_id::CONTAINER_NO_SECCOMP, _) => shape.container_start * 0.93,
                    (arm_id::VM, Machines::Hardware) => shape.vm_start,
                    (arm_id::VM, Machines::Emulated) => 14.2e9,
                    (arm_id::VM_TCG, _) => 0.93e9,
                    ("bwrap", _) => 6.2e6,
                    ("crun", _) => 11.4e6,
                    ("runc", _) => 33e6,
                    ("podman", _) => 172e6,
                    ("docker", _) => 296e6,
                    _ if *kind == ArmKind::Native => 0.73e6,
                    _ => continue,
                };
                if *kind == ArmKind::Peer && factor > 1.0 {
                    continue;
                }
                let mut value = noisy(rng, first_byte * factor + more, shape.noise * 4.0);
                if shape.furnished && rng.unit() < 0.04 {
                    value *= 1.6;
                }
                run.record(
                    id,
                    round,
                    Sample {
                        arm: arm.clone(),
                        instance: round,
                        value: Some(value),
                        iterations: None,
                        elapsed_ns: None,
                        host_ns: Some(value as u64),
                        void: None,
                    },
                );
            }
        }
    }
}

fn furnish(run: &mut Results, shape: &Shape, rng: &mut Rng) {
    run.notes.push(
        "On kvm_pvm the guest's programs see AVX in CPUID while its registers are not kept, so every workload is \
         built for the baseline instruction set."
            .to_owned(),
    );
    let overhead = "footprint.vmm-overhead";
    run.metrics.push(metric(
        overhead,
        Group::Footprint,
        Unit::Bytes,
        "VMM overhead",
        "The VMM's memory less the guest's, as Firecracker defines it.",
    ));
    for round in 0..shape.rounds {
        for (arm, bytes) in [(arm_id::VM, 3.4e6), (arm_id::VM_TCG, 41e6)] {
            if run.arm(arm).is_some_and(Arm::ran) {
                let value = noisy(rng, bytes, 0.005).round();
                let sample = Sample {
                    arm: arm.to_owned(),
                    instance: round % 5,
                    value: Some(value),
                    iterations: None,
                    elapsed_ns: None,
                    host_ns: None,
                    void: None,
                };
                run.record(overhead, round, sample);
            }
        }
    }
    if shape.machines == Machines::Emulated {
        for metric in ["kernel.fork-exec", "file.image.read-seq"] {
            run.cut_offs.push(CutOff {
                metric: metric.to_owned(),
                arm: arm_id::VM.to_owned(),
                budget_ns: Some(60_000_000_000),
                reason: "3 of 20 rounds within the time for one arm".to_owned(),
            });
        }
        for series in &mut run.series {
            if series.metric == "kernel.fork-exec" || series.metric == "file.image.read-seq" {
                for round in &mut series.rounds {
                    let number = round.number;
                    round.samples.retain(|s| s.arm != arm_id::VM || number < 3);
                }
            }
        }
    }
    if let Some(series) = run.series.iter_mut().find(|s| s.metric == "cpu.sha256") {
        let sample = series.rounds[4]
            .samples
            .iter_mut()
            .find(|s| s.arm.starts_with("vm"));
        if let Some(sample) = sample {
            sample.host_ns = sample.host_ns.map(|ns| ns * 2);
            sample.void =
                Some("the guest's clock and the host's differ by more than 1 %".to_owned());
        }
    }
    add_timelines(run, shape, rng);
    for (arm, base, slope) in [
        (arm_id::NATIVE, 0.1e6, 0.12e6),
        (arm_id::CONTAINER, 0.4e6, 0.52e6),
        (arm_id::VM, 12e6, 38e6),
        (arm_id::VM_TCG, 30e6, 88e6),
    ] {
        if !run.arm(arm).is_some_and(Arm::ran) {
            continue;
        }
        let points = [1u32, 2, 4, 8, 16]
            .into_iter()
            .map(|instances| {
                let bytes = noisy(rng, base + slope * f64::from(instances), 0.01);
                MemoryPoint {
                    instances,
                    pss_bytes: (bytes * 0.86) as u64,
                    kernel_bytes: (bytes * 0.14) as u64,
                }
            })
            .collect();
        run.memory.push(MemorySeries {
            arm: arm.to_owned(),
            points,
        });
    }
}

fn add_timelines(run: &mut Results, shape: &Shape, rng: &mut Rng) {
    let container: &[(&str, f64)] = &[
        ("image", 0.35),
        ("rootfs", 0.9),
        ("cgroup", 1.1),
        ("network", 0.1),
        ("clone", 1.2),
        ("exec", 1.6),
    ];
    let vm: &[(&str, f64)] = match shape.machines {
        Machines::Hardware => &[
            ("vmm-ready", 6.0),
            ("first-instruction", 2.0),
            ("kernel", 310.0),
            ("init", 20.0),
            ("agent", 60.0),
            ("exec", 40.0),
        ],
        _ => &[
            ("vmm-ready", 6.0),
            ("first-instruction", 2.0),
            ("kernel", 7400.0),
            ("init", 700.0),
            ("agent", 3900.0),
            ("exec", 900.0),
        ],
    };
    let tcg: &[(&str, f64)] = &[
        ("vmm-ready", 95.0),
        ("first-instruction", 12.0),
        ("kernel", 560.0),
        ("init", 40.0),
        ("agent", 130.0),
        ("exec", 60.0),
    ];
    for (arm, stages) in [
        (arm_id::CONTAINER, container),
        (arm_id::VM, vm),
        (arm_id::VM_TCG, tcg),
    ] {
        if !run.arm(arm).is_some_and(Arm::ran) {
            continue;
        }
        for instance in 0..5 {
            let mut at = 0.0;
            let stages: Vec<Stage> = stages
                .iter()
                .map(|(name, ms)| {
                    at += noisy(rng, ms * 1e6, 0.05);
                    Stage {
                        name: (*name).to_owned(),
                        end_ns: at as u64,
                    }
                })
                .collect();
            run.timelines.push(Timeline {
                arm: arm.to_owned(),
                instance,
                condition: "warm".to_owned(),
                stages,
                first_byte_ns: Some((at * 1.02) as u64),
                exit_ns: Some((at * 1.04) as u64 + 400_000),
            });
        }
    }
}

fn fingerprint(machines: Machines) -> Fingerprint {
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    Fingerprint {
        cpu: "AMD EPYC 7763 64-Core Processor".to_owned(),
        cores: 2,
        memory_bytes: 24 << 30,
        kernel: "Linux 6.18.2 #1 SMP PREEMPT_DYNAMIC".to_owned(),
        distribution: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        virtualization: match machines {
            Machines::Hardware => "svm",
            Machines::Emulated => "kvm_pvm",
            Machines::None => "none: there is no /dev/kvm",
        }
        .to_owned(),
        host_runs_under: "kvm guest".to_owned(),
        mitigations: text(&[
            (
                "spectre_v1",
                "Mitigation: usercopy/swapgs barriers and __user pointer sanitization",
            ),
            (
                "spectre_v2",
                "Mitigation: Retpolines; IBPB: conditional; STIBP: disabled; RSB filling",
            ),
            ("meltdown", "Not affected"),
        ]),
        guest_mitigations: BTreeMap::from([(
            arm_id::VM.to_owned(),
            text(&[
                ("spectre_v2", "Mitigation: Retpolines"),
                ("meltdown", "Not affected"),
            ]),
        )]),
        guest_kernels: BTreeMap::from([(
            arm_id::VM.to_owned(),
            "Linux 6.12.48-plimsoll".to_owned(),
        )]),
        transparent_huge_pages: "madvise".to_owned(),
        frequency_governor: "none to be seen".to_owned(),
        cgroup_mode: "hybrid".to_owned(),
        store_filesystem: "ext4 on /dev/vda".to_owned(),
        rcu_expedited: "0".to_owned(),
        swap_bytes: 0,
        load_at_start: Some([0.12, 0.3, 0.4]),
        load_at_end: Some([1.04, 0.98, 0.71]),
        versions: text(&[
            ("plimsoll", "0.1.0"),
            ("rustc", "1.95.0"),
            ("qemu", "7.2.19"),
            ("guest kernel digest", "1f6b0c93d2a4e587"),
        ]),
        further: BTreeMap::new(),
    }
}

/// The same run with text in every place that a hostile result file could put it.
pub fn hostile(run: &Results) -> Results {
    const TEXT: &str = "</td></script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\"'&amp;{}";
    let mut run = run.clone();
    let spoil = |text: &mut String| text.push_str(TEXT);
    spoil(&mut run.made_by);
    spoil(&mut run.plan.name);
    run.plan.filter = Some(TEXT.to_owned());
    run.completeness = Completeness::Partial {
        reason: TEXT.to_owned(),
    };
    run.notes.push(TEXT.to_owned());
    if let Some(image) = &mut run.image {
        spoil(&mut image.name);
        spoil(&mut image.digest);
    }
    for arm in &mut run.arms {
        spoil(&mut arm.label);
        arm.omits.push(TEXT.to_owned());
        arm.versions.insert(TEXT.to_owned(), TEXT.to_owned());
        if let Some(substrate) = &mut arm.substrate {
            spoil(&mut substrate.name);
        }
        if let Some(twin) = &mut arm.twin_of {
            spoil(&mut twin.difference);
        }
        if let ArmStatus::NotRun { reason } = &mut arm.status {
            spoil(reason);
        }
    }
    for metric in &mut run.metrics {
        spoil(&mut metric.title);
        spoil(&mut metric.description);
    }
    for cut in &mut run.cut_offs {
        spoil(&mut cut.reason);
    }
    for timeline in &mut run.timelines {
        spoil(&mut timeline.condition);
        timeline.stages.iter_mut().for_each(|s| spoil(&mut s.name));
    }
    for sample in run
        .series
        .iter_mut()
        .flat_map(|s| &mut s.rounds)
        .flat_map(|r| &mut r.samples)
    {
        if let Some(reason) = &mut sample.void {
            spoil(reason);
        }
    }
    let print = &mut run.fingerprint;
    for text in [
        &mut print.cpu,
        &mut print.kernel,
        &mut print.distribution,
        &mut print.virtualization,
        &mut print.cgroup_mode,
        &mut print.store_filesystem,
        &mut print.rcu_expedited,
    ] {
        spoil(text);
    }
    print.further.insert(TEXT.to_owned(), TEXT.to_owned());
    print.versions.insert(TEXT.to_owned(), TEXT.to_owned());
    print.mitigations.insert(TEXT.to_owned(), TEXT.to_owned());
    run.seeds.insert(TEXT.to_owned(), 1);
    run
}
