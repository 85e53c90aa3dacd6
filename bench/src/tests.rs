//! The harness as a whole, on real processes: the workload that images hold, run natively.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reports::results::{self, ArmKind, arm_id};
use reports::verdict::{Evidence, Outcome};
use reports::{Results, verdicts};

use crate::arm::{Arm, Candidate, Places, Purpose, entry};
use crate::benchmark::Rounds;
use crate::harness::{Harness, Setup, take_status};
use crate::launch::Launch;
use crate::limits::Limits;
use crate::plan::Plan;
use crate::processes;
use crate::session::Session;
use crate::steady::Steady;
use crate::suite::{self, Sizes, Work};

const SOON: Duration = Duration::from_secs(20);
const SIZES: Sizes = Sizes {
    triad: 4 << 20,
    chase: 4 << 20,
};

/// The tests of this file take the CPU for themselves, one after the other: side by side they would spoil each other's
/// samples.
static ALONE: Mutex<()> = Mutex::new(());

/// The workload as a file, executable, in a directory that goes with the value.
struct Program {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Program {
    fn new() -> Self {
        // One that has failed says nothing about the next.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let bytes = directory.path().join("bytes");
        std::fs::write(&bytes, guest_artifacts::WORKLOAD).unwrap();
        // By a process of its own: whoever forks here meanwhile would hold the file open for writing, and it could not be executed.
        let copied = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([bytes, directory.path().join("workload")])
            .status();
        assert!(copied.unwrap().success());
        Self {
            directory,
            _alone: alone,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("workload")
    }
}

/// The workload without any launcher, under whatever name, slowed or broken on purpose.
struct Direct {
    about: results::Arm,
    program: PathBuf,
    scratch: PathBuf,
    slowdown: &'static str,
    script: Option<&'static str>,
}

fn arm(id: &str, kind: ArmKind, program: &Program, slowdown: &'static str) -> Direct {
    let mut about = entry(id, id, kind);
    about.control_of = (id == arm_id::NATIVE_CONTROL).then(|| arm_id::NATIVE.to_owned());
    Direct {
        about,
        program: program.path(),
        scratch: program.directory.path().join(id),
        slowdown,
        script: None,
    }
}

impl Arm for Direct {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], _: &Purpose) -> Result<Launch, String> {
        let mut launch = match self.script {
            Some(script) => Launch::new("/bin/sh", ["-c", script]),
            None => Launch::new(&self.program, workload),
        };
        launch
            .env
            .push(("PLIMSOLL_SLOWDOWN".to_owned(), self.slowdown.to_owned()));
        launch
            .env
            .push(("WORKLOAD".to_owned(), self.program.display().to_string()));
        Ok(launch)
    }

    fn image_files(&self) -> Vec<PathBuf> {
        vec![self.program.clone()]
    }

    fn places(&self) -> Option<Places> {
        Some(Places {
            image_file: self.program.display().to_string(),
            scratch: self.scratch.display().to_string(),
            peer: String::new(),
        })
    }
}

fn harness(arms: Vec<Direct>, scratch: &Path) -> Harness {
    let plan = Plan {
        sample: Duration::from_millis(6),
        ..Plan::quick()
    };
    let stated = results::Plan {
        name: "test".to_owned(),
        rounds: 10,
        instances: 2,
        arm_budget_ns: 0,
        run_budget_ns: None,
        filter: None,
    };
    Harness::new(Setup {
        plan,
        results: Results::new("test", 1, stated),
        candidates: arms
            .into_iter()
            .map(|arm| Candidate::Able(Box::new(arm)))
            .collect(),
        command: None,
        networks: None,
        limits: Limits {
            cpus: fingerprint::cores(),
            memory: Limits::MEMORY,
        },
        sizes: SIZES,
        scratch: scratch.to_owned(),
        places: crate::outcome::Places::find(),
        keeps: false,
        benches: 1,
        unsteady: 0,
    })
}

fn work(id: &str) -> Work {
    suite::all()
        .into_iter()
        .find(|work| work.id() == id)
        .unwrap()
}

/// What claim C1's rule says about one metric of the arm called `container`.
fn verdict<R>(results: &Results, metric: &str, judge: impl FnOnce(&Evidence<'_>) -> R) -> R {
    let verdicts = verdicts(results);
    let claim = verdicts
        .iter()
        .find(|verdict| verdict.claim.id == "C1")
        .unwrap();
    let evidence = claim
        .finding
        .evidence
        .iter()
        .find(|evidence| evidence.metric.is_some_and(|m| m.id == metric));
    judge(evidence.unwrap())
}

/// Ten per cent are found on a real run. Where the machine is so busy that the rules cannot decide, more rounds are run
/// until they can; that they ever decide wrongly is what fails.
#[test]
fn an_arm_slowed_by_ten_per_cent_is_found_out() {
    let program = Program::new();
    let arms = vec![
        arm(arm_id::NATIVE, ArmKind::Native, &program, ""),
        arm(arm_id::NATIVE_CONTROL, ArmKind::Native, &program, ""),
        arm(arm_id::CONTAINER, ArmKind::Container, &program, "10"),
    ];
    let mut harness = harness(arms, program.directory.path());
    // Short samples: most of them then lie within one time slice, however many other programs want the CPU.
    harness.plan.sample = Duration::from_millis(1);
    let mut steady = Steady::prepare(&mut harness, work("cpu.sha256"));
    let mut said = String::new();
    for _ in 0..20 {
        for _ in 0..50 {
            steady.round(&mut harness, true);
        }
        take_status(&harness.seats, &mut harness.results);
        let outcome = verdict(&harness.results, "cpu.sha256", |evidence| {
            said = format!(
                "{:?} {:?}",
                evidence.figure_text(),
                evidence.interval_text()
            );
            evidence.outcome.clone()
        });
        match outcome {
            Outcome::Contradicts => {
                let rounds = harness.results.rounds("cpu.sha256").len();
                eprintln!("found after {rounds} rounds: {said}");
                return;
            }
            Outcome::Supports => panic!("an arm slowed by 10 % passes for equal: {said}"),
            Outcome::Undecided(reason) => eprintln!("not decided yet: {reason}"),
        }
    }
    panic!("10 % were not found in 1000 rounds: {said}");
}

#[test]
fn rounds_are_interleaved_and_instances_are_replaced() {
    let program = Program::new();
    let arms = vec![
        arm(arm_id::NATIVE, ArmKind::Native, &program, ""),
        arm(arm_id::CONTAINER, ArmKind::Container, &program, ""),
    ];
    let mut harness = harness(arms, program.directory.path());
    let plan_rounds = harness.plan.rounds;
    let mut steady = Steady::prepare(&mut harness, work("kernel.getpid"));
    steady.round(&mut harness, false);
    assert!(
        harness.results.rounds("kernel.getpid").is_empty(),
        "a round that warms up is not kept"
    );
    steady.expect(&mut harness, plan_rounds);
    for _ in 0..plan_rounds {
        steady.round(&mut harness, true);
    }
    let rounds = harness.results.rounds("kernel.getpid");
    let order = |round: usize| {
        rounds[round]
            .samples
            .iter()
            .map(|sample| sample.arm.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(order(0), ["native", "container", "container", "native"]);
    assert_eq!(order(1), ["container", "native", "native", "container"]);
    let mut instances: Vec<u32> = rounds
        .iter()
        .flat_map(|round| &round.samples)
        .map(|s| s.instance)
        .collect();
    instances.sort_unstable();
    instances.dedup();
    assert_eq!(instances.len() as u32, harness.plan.instances);
    assert!(steady.ratio().unwrap() > 0.0);
    harness.results.check().unwrap();
}

#[test]
fn an_arm_that_is_too_slow_is_cut_off_and_the_others_go_on() {
    let program = Program::new();
    let mut hanging = arm(arm_id::CONTAINER, ArmKind::Container, &program, "");
    // Answers pings and the set-up, then never again.
    hanging.script = Some(
        "echo ready; while read name n rest; do \
           if [ $name = ping ] || [ $n = 0 ]; then echo ok 0 0000000000000000 1000 1000; else sleep 100; fi; done",
    );
    let arms = vec![arm(arm_id::NATIVE, ArmKind::Native, &program, ""), hanging];
    let mut harness = harness(arms, program.directory.path());
    (harness.plan.arm, harness.plan.patience) =
        (Duration::from_secs(2), Duration::from_millis(200));
    let mut steady = Steady::prepare(&mut harness, work("kernel.getpid"));
    for _ in 0..10 {
        steady.round(&mut harness, true);
    }
    let cut = harness
        .results
        .cut_off("kernel.getpid", "container")
        .unwrap();
    assert!(
        cut.reason.contains("took longer than") && cut.budget_ns.is_some(),
        "{}",
        cut.reason
    );
    let arms: Vec<&str> = harness
        .results
        .rounds("kernel.getpid")
        .iter()
        .flat_map(|r| &r.samples)
        .map(|s| s.arm.as_str())
        .collect();
    assert_eq!(arms.len(), 20);
    assert!(arms.iter().all(|arm| *arm == "native"));
    harness.results.check().unwrap();
}

#[test]
fn wrong_results_and_wrong_clocks_void_samples() {
    let program = Program::new();
    let mut wrong = arm(arm_id::CONTAINER, ArmKind::Container, &program, "");
    wrong.script = Some(
        "echo ready; while read name n rest; do echo ok 20000000 00000000deadbeef 0 20000000; done",
    );
    let arms = vec![arm(arm_id::NATIVE, ArmKind::Native, &program, ""), wrong];
    let mut harness = harness(arms, program.directory.path());
    let mut steady = Steady::prepare(&mut harness, work("cpu.sha256"));
    steady.round(&mut harness, true);
    let samples = &harness.results.rounds("cpu.sha256")[0].samples;
    for sample in samples {
        match sample.arm.as_str() {
            "container" => assert!(
                sample.void.as_ref().unwrap().contains("wrong result"),
                "{sample:?}"
            ),
            _ => assert!(
                sample
                    .void
                    .as_ref()
                    .is_none_or(|void| void.contains("clock")),
                "{sample:?}"
            ),
        }
    }
    // The same script is honest about a work whose checksum is 0, but its clock is not.
    let mut harness = {
        let mut fast = arm(arm_id::CONTAINER, ArmKind::Container, &program, "");
        fast.script = Some(
            "echo ready; while read name n rest; do echo ok 20000000 0000000000000000 0 20000000; done",
        );
        let arms = vec![arm(arm_id::NATIVE, ArmKind::Native, &program, ""), fast];
        self::harness(arms, program.directory.path())
    };
    let mut steady = Steady::prepare(&mut harness, work("kernel.getpid"));
    steady.round(&mut harness, true);
    let samples = &harness.results.rounds("kernel.getpid")[0].samples;
    let fast = samples
        .iter()
        .find(|sample| sample.arm == "container")
        .unwrap();
    assert!(fast.void.as_ref().unwrap().contains("clock"), "{fast:?}");
}

#[test]
fn an_arm_that_never_starts_is_not_tried_for_ever() {
    let program = Program::new();
    let mut broken = arm(arm_id::CONTAINER, ArmKind::Container, &program, "");
    broken.script = Some("echo no such image >&2; exit 125");
    let arms = vec![arm(arm_id::NATIVE, ArmKind::Native, &program, ""), broken];
    let mut harness = harness(arms, program.directory.path());
    for (n, id) in ["cpu.sha256", "cpu.matrix", "kernel.getpid"]
        .into_iter()
        .enumerate()
    {
        drop(Steady::prepare(&mut harness, work(id)));
        let reason = &harness.results.cut_off(id, "container").unwrap().reason;
        assert!(reason.contains("no such image"), "{reason}");
        assert_eq!(reason.contains("did not start"), n == 2, "{reason}");
    }
}

/// Each instance holds three arrays of 4 MiB, and what a process has besides: the slope must find that.
#[test]
fn the_slope_of_known_processes_is_their_memory() {
    const ARRAYS: f64 = 12.0 * 1024.0 * 1024.0;
    let program = Program::new();
    let mut sessions: Vec<Session> = Vec::new();
    let mut points = Vec::new();
    for count in [1, 2, 4, 8] {
        while sessions.len() < count {
            let launch = Launch::new(program.path(), ["serve"]);
            let mut session = Session::begin(launch.spawn(true).unwrap(), SOON).unwrap();
            session.ask("triad 1 size=4194304", SOON).unwrap();
            sessions.push(session);
        }
        let pids: Vec<i32> = sessions.iter().map(Session::pid).collect();
        let found = processes::footprint(&pids);
        points.push((count as f64, (found.pss + found.kernel) as f64));
    }
    let slope = reports::stats::least_squares(&points).unwrap().slope;
    assert!(
        (ARRAYS..ARRAYS * 1.1).contains(&slope),
        "{slope} bytes an instance from {points:?}"
    );
    for session in sessions {
        session.end().unwrap();
    }
}

/// Every piece of work in the suite, as it is asked for: one iteration, answered, with the same checksum twice.
#[test]
fn the_whole_suite_is_answered_by_the_workload() {
    let program = Program::new();
    let data = program.directory.path().join("data");
    let port = free_port();
    let mut client = Launch::new(program.path(), ["serve"]);
    client.companions.push(Launch::new(
        program.path(),
        ["echo", port.as_str(), "until-eof"],
    ));
    let mut session = Session::begin(client.spawn(true).unwrap(), SOON).unwrap();
    let places = Places {
        image_file: data.display().to_string(),
        scratch: program.directory.path().join("s").display().to_string(),
        peer: format!("127.0.0.1:{port}"),
    };
    session
        .ask(
            &format!("write 0 path={} size=2097152", data.display()),
            SOON,
        )
        .unwrap();
    for work in suite::all() {
        let ask = |session: &mut Session, n| session.ask(&work.request(n, &places, SIZES), SOON);
        match (ask(&mut session, 1), ask(&mut session, 2)) {
            (Ok(once), Ok(twice)) => assert_eq!(once.checksum, twice.checksum, "{}", work.id()),
            (Err(trouble), _) if trouble.to_string().contains("no O_DIRECT") => {
                eprintln!("skipped: {trouble}")
            }
            (once, twice) => panic!("{}: {once:?} {twice:?}", work.id()),
        }
    }
    let shown = session.show("/proc/sys/kernel/osrelease", SOON).unwrap();
    assert_eq!(
        shown,
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap()
            .trim()
    );
    session.end().unwrap();
}

#[test]
fn a_client_has_its_server_before_it_and_the_server_ends_after_it() {
    let program = Program::new();
    let port = free_port();
    let mut client = Launch::new(program.path(), ["serve"]);
    client.companions.push(Launch::new(
        program.path(),
        ["echo", port.as_str(), "until-eof"],
    ));
    let mut session = Session::begin(client.spawn(true).unwrap(), SOON).unwrap();
    let peer = format!("127.0.0.1:{port}");
    for request in ["rr 20", "stream 20"] {
        let answer = session
            .ask(&format!("{request} peer={peer}"), SOON)
            .unwrap();
        assert!(answer.elapsed > 0, "{request}");
    }
    assert!(std::net::TcpStream::connect(&peer).is_ok());
    session.end().unwrap();
    assert!(std::net::TcpStream::connect(&peer).is_err());
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}
