//! Everything about the host that could explain a figure; for the benchmark harness and for `plimsoll compare`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use reports::results::Fingerprint;

/// Reads it all off the host. `store` is where the images are.
pub fn collect(store: &Path) -> Fingerprint {
    let cpuinfo = text("/proc/cpuinfo");
    let meminfo = text("/proc/meminfo");
    let flags = field(&cpuinfo, "flags").unwrap_or_default().to_owned();
    let has = |flag: &str| flags.split(' ').any(|name| name == flag);
    let mut print = Fingerprint {
        cpu: field(&cpuinfo, "model name")
            .unwrap_or("unknown")
            .to_owned(),
        cores: cores(),
        memory_bytes: kib(&meminfo, "MemTotal"),
        kernel: format!(
            "{} {}",
            text("/proc/sys/kernel/osrelease"),
            text("/proc/sys/kernel/version")
        ),
        distribution: distribution(),
        virtualization: virtualization(),
        host_runs_under: runs_under(has("hypervisor")),
        mitigations: directory("/sys/devices/system/cpu/vulnerabilities"),
        transparent_huge_pages: chosen(&text("/sys/kernel/mm/transparent_hugepage/enabled")),
        frequency_governor: or_none(
            text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "none to be seen",
        ),
        cgroup_mode: cgroup_mode().to_owned(),
        store_filesystem: filesystem(store),
        rcu_expedited: or_none(text("/sys/kernel/rcu_expedited"), "unknown"),
        swap_bytes: kib(&meminfo, "SwapTotal"),
        load_at_start: load(),
        ..Fingerprint::default()
    };
    print.further.insert(
        "harness processes at the start".to_owned(),
        text("/proc/loadavg")
            .split(' ')
            .nth(3)
            .unwrap_or_default()
            .to_owned(),
    );
    print.further.insert(
        "clocksource".to_owned(),
        text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    );
    print.further.insert(
        "last-level cache".to_owned(),
        format!("{} MiB", last_level_cache() >> 20),
    );
    print
}

/// Load averages over 1, 5 and 15 minutes.
pub fn load() -> Option<[f64; 3]> {
    let text = text("/proc/loadavg");
    let mut numbers = text.split(' ').map(|word| word.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// CPUs that the harness may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Bytes of the largest cache of the first CPU; 32 MiB where the kernel does not say.
pub fn last_level_cache() -> u64 {
    (0..8)
        .filter_map(|index| {
            let size = text(format!(
                "/sys/devices/system/cpu/cpu0/cache/index{index}/size"
            ));
            size.strip_suffix('K')?.parse::<u64>().ok()
        })
        .max()
        .map_or(32 << 20, |kib| kib * 1024)
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn or_none(text: String, otherwise: &str) -> String {
    if text.is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

/// The value behind `name` and a colon.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kib(meminfo: &str, name: &str) -> u64 {
    field(meminfo, name)
        .and_then(|value| value.trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> String {
    let word = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    or_none(
        word.map_or_else(String::new, |(word, _)| word.to_owned()),
        "not in this kernel",
    )
}

fn distribution() -> String {
    let release = text("/etc/os-release");
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    or_none(
        name.unwrap_or_default().trim_matches('"').to_owned(),
        "unknown",
    )
}

fn virtualization() -> String {
    match engine::substrate() {
        engine::Substrate::Vmx => "vmx".to_owned(),
        engine::Substrate::Svm => "svm".to_owned(),
        engine::Substrate::Pvm => "kvm_pvm".to_owned(),
        engine::Substrate::None { reason } => format!("none: {reason}"),
    }
}

fn runs_under(hypervisor: bool) -> String {
    if !hypervisor {
        return String::new();
    }
    let product = text("/sys/class/dmi/id/sys_vendor");
    or_none(product, "a hypervisor that does not say its name")
}

/// `v2` where cgroup2 is all there is, `hybrid` where it is mounted beside v1.
fn cgroup_mode() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "v2"
    } else if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        "hybrid"
    } else {
        "v1"
    }
}

/// Type and device of the file system that holds `path`: the mount with the longest path above it.
fn filesystem(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = text("/proc/self/mounts");
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at)
                .then(|| (at.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, description)| description)
}

fn directory(path: &str) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(path) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                text(entry.path()),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_described() {
        let print = collect(Path::new("/"));
        assert!(!print.cpu.is_empty() && print.cores > 0 && print.memory_bytes > 1 << 20);
        assert!(print.kernel.contains('.') && print.load_at_start.is_some());
        assert!(
            print.store_filesystem.contains(" on "),
            "{}",
            print.store_filesystem
        );
        assert!(["v1", "v2", "hybrid"].contains(&print.cgroup_mode.as_str()));
    }

    #[test]
    fn the_chosen_word_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "not in this kernel");
    }
}
