//! `--kernel` with what distributions build: Debian's cloud kernels, which tests/stock-kernels fetches. They find their devices
//! by ACPI and have their drivers in modules. Under QEMU's emulation here, by our own monitor where KVM is hardware (the lab).

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{Host, PARALLEL, kvm_is_emulated, vm_ways};

/// A kernel's package, unpacked.
struct Package {
    root: PathBuf,
    release: String,
}

impl Package {
    fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// The kernels that were fetched; says so when there are none.
fn packages() -> Vec<Package> {
    let store = std::env::var_os("PLIMSOLL_STOCK_KERNELS")
        .map_or_else(|| "/var/cache/plimsoll/stock".into(), PathBuf::from);
    let mut packages: Vec<Package> = fs::read_dir(&store)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let release = entry.file_name().into_string().ok()?;
            let root = entry.path();
            let package = Package { root, release };
            package.kernel().is_file().then_some(package)
        })
        .collect();
    packages.sort_by(|a, b| a.release.cmp(&b.release));
    if packages.is_empty() {
        eprintln!(
            "skipped: there are no distribution's kernels in {} (tests/stock-kernels fetches them)",
            store.display()
        );
    }
    packages
}

/// The ways to run a VM on which any kernel boots.
fn ways() -> Vec<Vec<&'static str>> {
    let boots = |way: &Vec<&str>| !(kvm_is_emulated() && way.contains(&"kvm"));
    vm_ways().into_iter().filter(boots).collect()
}

/// The files that were made of kernels, by path, with their inodes.
fn made(host: &Host) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut open = vec![host.root().join("vm/kernels")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => drop(files.insert(entry.path(), entry.metadata().unwrap().ino())),
            }
        }
    }
    files
}

#[test]
fn debians_cloud_kernels_boot_through_acpi_with_two_processors_network_and_volumes() {
    for (number, package) in packages().iter().enumerate() {
        let host = Host::new();
        let shared = host.scratch().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("file"), "of the host\n").unwrap();
        let volume = format!("{}:/data", shared.display());
        let kernel = package.kernel();
        let kernel = kernel.to_str().unwrap();
        let script = format!(
            "uname -r; nproc; cat /data/file; echo of the guest > /data/back; test -e /sys/class/net/eth0 && echo net; {PARALLEL}"
        );
        let mut before = None;
        for way in ways() {
            let flags = [
                "--kernel", kernel, "--cpus", "2", "-m", "256m", "-v", &volume,
            ];
            let command = ["plimsoll/base", "sh", "-c", &script];
            let said = host.plimsoll([&["run", "--rm"], &way[..], &flags, &command].concat());
            let wanted = format!("{}\n2\nof the host\nnet\n", package.release);
            let parallel = said.ok().strip_prefix(&wanted).map(str::to_owned);
            let parallel = parallel.unwrap_or_else(|| panic!("{way:?}: {said:?}"));
            common::check_parallel(&parallel);
            let back = fs::read_to_string(shared.join("back")).unwrap();
            assert_eq!(back, "of the guest\n");
            fs::remove_file(shared.join("back")).unwrap();
            before = Some(made(&host));
        }
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
        let Some(before) = before.filter(|_| number == 0) else {
            continue;
        };
        // Nothing is unpacked again, which one kernel shows for all.
        let way = ways().swap_remove(0);
        let short = [
            &["run", "--rm"],
            &way[..],
            &["--kernel", kernel, "-v", &volume],
        ]
        .concat();
        let again = host.plimsoll([&short[..], &["plimsoll/base", "sh", "-c", "exit 7"]].concat());
        assert_eq!(again.code, Some(7), "{again:?}");
        assert_eq!(made(&host), before);
    }
}

#[test]
fn a_kernel_without_a_driver_its_modules_or_its_end_is_refused_before_it_boots() {
    let (Some(package), Some(way)) = (packages().into_iter().next(), ways().pop()) else {
        return;
    };
    let host = Host::new();
    let root = host.scratch().join("package");
    let kernel = root
        .join("boot")
        .join(package.kernel().file_name().unwrap());
    let modules = root.join("lib/modules").join(&package.release);
    fs::create_dir_all(root.join("boot")).unwrap();
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::copy(package.kernel(), &kernel).unwrap();
    let path = kernel.to_str().unwrap();
    let refused = |words: &[&str]| {
        let run = [
            &["run", "--rm"],
            &way[..],
            &["--kernel", path, "plimsoll/base", "true"],
        ];
        host.plimsoll(run.concat()).fails(125, words);
    };

    fs::copy(
        package.modules().join("modules.builtin"),
        modules.join("modules.builtin"),
    )
    .unwrap();
    copy_all_but(
        &package.modules().join("kernel"),
        &modules.join("kernel"),
        "erofs.ko",
    );
    refused(&[path, "has no CONFIG_EROFS_FS"]);

    fs::remove_dir_all(root.join("lib")).unwrap();
    let config = format!("boot/config-{}", package.release);
    fs::copy(package.root.join(&config), root.join(&config)).unwrap();
    if Path::new("/lib/modules").join(&package.release).exists() {
        eprintln!(
            "skipped: modules that are nowhere, because {} has its own here",
            package.release
        );
    } else {
        refused(&[path, "CONFIG_VIRTIO_MMIO as a module", "lib/modules"]);
    }

    let whole = fs::read(&kernel).unwrap();
    fs::write(&kernel, &whole[..whole.len() / 2]).unwrap();
    refused(&[path, "cut short"]);
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

/// Copies the modules that a VM takes into one directory, but for one.
fn copy_all_but(from: &Path, to: &Path, but: &str) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_all_but(&entry.path(), to, but);
        } else if (name.starts_with("virtio") || name.starts_with("overlay"))
            && !name.starts_with(but)
        {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_toolbox_has_a_distributions_kernel_with_the_modules_for_its_own_networks() {
    let Some(package) = packages().pop() else {
        return;
    };
    if common::which("qemu-system-x86_64").is_none() {
        skip!("qemu-system-x86_64 is not installed");
    }
    let host = Host::new();
    let kernel = package.kernel();
    let kernel = kernel.to_str().unwrap();
    let way = [
        "run",
        "--rm",
        "--backend",
        "toolbox",
        "--accel",
        "tcg",
        "--kernel",
        kernel,
    ];
    let script = "uname -r; test -e /sys/class/net/eth0 && echo net";
    let said = host.plimsoll([&way[..], &["plimsoll/base", "sh", "-c", script]].concat());
    assert_eq!(said.ok(), format!("{}\nnet", package.release));
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn a_kernel_that_kvm_pvm_cannot_run_is_refused_with_what_mends_it() {
    let Some(package) = packages().pop() else {
        return;
    };
    if !kvm_is_emulated() {
        skip!("/dev/kvm is not kvm_pvm");
    }
    let host = Host::new();
    let kernel = package.kernel();
    let kernel = kernel.to_str().unwrap();
    let run = [
        "run",
        "--rm",
        "--backend",
        "vm",
        "--accel",
        "kvm",
        "--kernel",
        kernel,
    ];
    host.plimsoll([&run[..], &["plimsoll/base", "true"]].concat())
        .fails(125, &[kernel, "kvm_pvm", "--accel tcg"]);
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}
