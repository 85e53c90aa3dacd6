//! From a kernel's file to what a machine boots from.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::bzimage::tests::image as compressed;
use super::modules::tests::tree;
use super::unpack::Format;
use super::*;

const RELEASE: &str = "6.1.0-test";

/// A kernel's package, unpacked.
struct Package {
    folder: TempDir,
}

impl Package {
    /// With a kernel that has ACPI, and all drivers but the first as modules.
    fn new() -> Self {
        let package = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(package.path("boot")).unwrap();
        let vmlinux = vmlinux("Linux version 6.1.0-test (b@h) #1\n\0acpi_sci\0");
        fs::write(package.kernel(), compressed(Some(Format::Zstd), &vmlinux)).unwrap();
        let modules = [
            ("kernel/virtio_console.ko", "depends=virtio\0"),
            ("kernel/virtio.ko.xz", ""),
            ("kernel/virtio_blk.ko.zst", "depends=virtio\0"),
            ("kernel/erofs.ko", ""),
            ("kernel/overlay.ko.gz", ""),
            ("kernel/virtio_net.ko", "depends=virtio\0"),
        ];
        let built_in = [
            "kernel/virtio_mmio.ko",
            "kernel/ext4.ko",
            "kernel/virtiofs.ko",
        ];
        tree(&package.modules(), &modules, &built_in);
        package
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kernel(&self) -> PathBuf {
        self.path("boot/vmlinuz-6.1.0-test")
    }

    fn modules(&self) -> PathBuf {
        self.path("lib/modules").join(RELEASE)
    }

    fn prepare(&self) -> Result<Prepared> {
        self.prepare_for(Wants::default(), Accelerator::Tcg)
    }

    fn prepare_for(&self, wants: Wants, accelerator: Accelerator) -> Result<Prepared> {
        let names = |modules: &[Module]| {
            let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
            assert!(
                modules
                    .iter()
                    .all(|module| module.contents.starts_with(b"\x7fELF"))
            );
            names.join(" ").into_bytes()
        };
        prepare(&Request {
            kernel: &self.kernel(),
            cache: &self.path("cache"),
            wants,
            accelerator,
            substrate: Substrate::Pvm,
            agent: "0123",
            initramfs: &names,
        })
    }

    #[track_caller]
    fn refusal(&self) -> String {
        self.prepare().unwrap_err().to_string()
    }
}

/// An uncompressed kernel that holds this text.
fn vmlinux(text: &str) -> Vec<u8> {
    let code = [b"\xf4\xeb\xfd", text.as_bytes()].concat();
    crate::kernel::tests::image(&code, 0x100_0000)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_kernel_is_unpacked_once_and_gets_the_modules_that_its_machine_takes() {
    let package = Package::new();
    let first = package.prepare().unwrap();
    assert_eq!(first.release.as_deref(), Some(RELEASE));
    assert_eq!(first.discovery, Discovery::Acpi);
    Kernel::open(&first.kernel).unwrap();
    let initramfs = first.initramfs.clone().unwrap();
    assert_eq!(
        fs::read_to_string(&initramfs).unwrap(),
        "virtio.ko virtio_console.ko virtio_blk.ko erofs.ko overlay.ko"
    );
    let made = (inode(&first.kernel), inode(&initramfs));
    assert_eq!(package.prepare().unwrap(), first);
    assert_eq!((inode(&first.kernel), inode(&initramfs)), made);

    let networks = Wants {
        networks: true,
        shares: true,
        engine: false,
    };
    let with = package.prepare_for(networks, Accelerator::Tcg).unwrap();
    assert_eq!(with.kernel, first.kernel);
    let names = fs::read_to_string(with.initramfs.unwrap()).unwrap();
    assert!(names.ends_with(" virtio_net.ko"), "{names}");
}

#[test]
fn a_module_that_has_changed_is_taken_anew_and_a_kernel_that_is_gone_is_unpacked_anew() {
    let package = Package::new();
    let first = package.prepare().unwrap();
    tree(
        &package.modules(),
        &[("kernel/erofs.ko", "depends=\0new=1\0")],
        &["kernel/virtio_mmio.ko", "kernel/ext4.ko"],
    );
    let second = package.prepare().unwrap();
    assert_eq!(second.kernel, first.kernel);
    assert_ne!(second.initramfs, first.initramfs);
    fs::remove_file(&first.kernel).unwrap();
    assert_eq!(package.prepare().unwrap(), second);
    Kernel::open(&first.kernel).unwrap();
}

#[test]
fn an_uncompressed_kernel_is_taken_where_it_lies() {
    let package = Package::new();
    fs::write(
        package.kernel(),
        vmlinux("virtio_mmio.device\0plimsoll_pvm\0"),
    )
    .unwrap();
    let prepared = package
        .prepare_for(Wants::default(), Accelerator::Kvm)
        .unwrap();
    assert_eq!(prepared.kernel, package.kernel());
    assert_eq!(
        (prepared.discovery, prepared.initramfs),
        (Discovery::CommandLine, None)
    );
}

#[test]
fn what_cannot_boot_is_refused_by_its_path() {
    let package = Package::new();
    let pvm = package.prepare_for(Wants::default(), Accelerator::Kvm);
    let pvm = pvm.unwrap_err().to_string();
    assert!(
        pvm.contains("kvm_pvm") && pvm.contains("--accel tcg"),
        "{pvm}"
    );

    fs::remove_file(package.modules().join("kernel/erofs.ko")).unwrap();
    let refused = package.refusal();
    assert!(
        refused.contains("vmlinuz-6.1.0-test: has no CONFIG_EROFS_FS"),
        "{refused}"
    );

    fs::remove_dir_all(package.modules()).unwrap();
    let config = "CONFIG_BINFMT_ELF=y\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_DEVTMPFS=y\nCONFIG_PID_NS=y\n\
                  CONFIG_TMPFS=y\nCONFIG_UNIX98_PTYS=y\nCONFIG_VIRTIO_MMIO=m\n";
    fs::write(package.path("boot/config-6.1.0-test"), config).unwrap();
    let refused = package.refusal();
    assert!(
        refused.contains("CONFIG_VIRTIO_MMIO as a module"),
        "{refused}"
    );

    fs::write(package.kernel(), vmlinux("nothing")).unwrap();
    assert!(package.refusal().contains("neither CONFIG_ACPI nor"));
    let inside = compressed(Some(Format::Lz4), b"no kernel at all");
    fs::write(package.kernel(), inside).unwrap();
    let refused = package.refusal();
    assert!(
        refused.contains("vmlinuz-6.1.0-test: has a kernel in it that"),
        "{refused}"
    );
    let whole = compressed(Some(Format::Xz), &vmlinux("acpi_sci\0"));
    fs::write(package.kernel(), &whole[..2100]).unwrap();
    assert!(package.refusal().contains("cut short"));
    fs::write(package.kernel(), "#!/bin/sh").unwrap();
    assert!(package.refusal().contains("is no kernel"));
}
