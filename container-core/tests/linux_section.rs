//! Parts of the specification's Linux section that few containers use.

mod common;

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Fixture, shell, silent, skip, with_resources};
use container_core::cgroup::{Controller, detect};
use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxHugepageLimitBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder,
    LinuxThrottleDeviceBuilder, LinuxTimeOffset, Mount, MountBuilder, Spec,
};

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ("bind")
        .source(source)
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .unwrap()
}

fn add(spec: &mut Spec, mount: Mount) {
    spec.mounts_mut().as_mut().unwrap().push(mount);
}

fn add_namespace(spec: &mut Spec, kind: LinuxNamespaceType) {
    let namespace = LinuxNamespaceBuilder::default().typ(kind).build().unwrap();
    let linux = spec.linux_mut().as_mut().unwrap();
    linux.namespaces_mut().as_mut().unwrap().push(namespace);
}

#[test]
fn an_idmapped_mount_shows_other_owners() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let source = fixture.directory.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("theirs"), "").unwrap();
    chown(source.join("theirs"), Some(1000), Some(1000)).unwrap();
    chown(&source, Some(1000), Some(1000)).unwrap();
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(1000_u32)
        .host_id(0_u32)
        .size(1_u32)
        .build()
        .unwrap();
    let mut mount = bind(&source, "/data", &["bind", "idmap"]);
    mount
        .set_uid_mappings(Some(vec![mapping]))
        .set_gid_mappings(Some(vec![mapping]));
    let mut spec = shell("stat -c %u:%g /data/theirs; touch /data/made");
    add(&mut spec, mount);
    let output = match fixture.run_in(&spec, fixture.overlay()) {
        Err(error) if error.to_string().contains("may not support") => {
            eprintln!("skipped: {error}");
            return;
        }
        other => other.unwrap(),
    };
    assert_eq!(output.ok(), "0:0\n");
    assert_eq!(fs::metadata(source.join("made")).unwrap().uid(), 1000);
}

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    if skip() {
        return;
    }
    if !Path::new("/proc/self/ns/time").exists() {
        eprintln!("skipped: this kernel has no time namespaces");
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("cat /proc/uptime");
    add_namespace(&mut spec, LinuxNamespaceType::Time);
    let mut offset = LinuxTimeOffset::default();
    offset.set_secs(Some(10_000_000));
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_time_offsets(Some([("boottime".to_owned(), offset.clone())].into()));
    let text = fixture.run(&spec).ok();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 10_000_000.0, "{text}");
    let mut wrong = shell("true");
    wrong
        .linux_mut()
        .as_mut()
        .unwrap()
        .set_time_offsets(Some([("boottime".to_owned(), offset)].into()));
    let error = fixture.run_in(&wrong, fixture.overlay()).unwrap_err();
    assert!(error.to_string().contains("time namespace"), "{error}");
}

#[test]
fn a_tmpfs_begins_with_what_it_hides() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let hidden = fixture.root().join("hidden");
    fs::create_dir_all(hidden.join("deep/er")).unwrap();
    fs::write(hidden.join("deep/er/file"), vec![b'x'; 3 << 20]).unwrap();
    symlink("/etc/passwd", hidden.join("link")).unwrap();
    chown(hidden.join("deep"), Some(7), Some(8)).unwrap();
    let mut spec = shell(
        "stat -c '%s' /hidden/deep/er/file; stat -c '%u:%g' /hidden/deep; readlink /hidden/link; \
         echo changed > /hidden/deep/er/file; grep -c ' /hidden tmpfs' /proc/mounts",
    );
    let tmpfs = |size: &str| {
        MountBuilder::default()
            .destination("/hidden")
            .typ("tmpfs")
            .source("tmpfs")
            .options(vec!["tmpcopyup".to_owned(), format!("size={size}")])
            .build()
            .unwrap()
    };
    add(&mut spec, tmpfs("8m"));
    assert_eq!(
        fixture.run(&spec).ok(),
        format!("{}\n7:8\n/etc/passwd\n1\n", 3 << 20)
    );
    assert!(!fixture.upper.join("hidden/deep").exists());
    let mut small = shell("true");
    add(&mut small, tmpfs("1m"));
    let error = fixture.run_in(&small, fixture.overlay()).unwrap_err();
    assert!(error.to_string().contains("no space"), "{error}");
}

#[test]
fn block_input_and_output_are_throttled() {
    if skip() {
        return;
    }
    if !detect().unwrap().has(Controller::Blkio) {
        eprintln!("skipped: this host has no controller of block I/O");
        return;
    }
    let Some(device) = first_disk() else {
        eprintln!("skipped: this host has no disk");
        return;
    };
    let fixture = Fixture::new();
    let (major, minor) = device;
    let throttle = LinuxThrottleDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .rate(1_048_576_u64)
        .build()
        .unwrap();
    let block = LinuxBlockIoBuilder::default()
        .throttle_read_bps_device(vec![throttle])
        .build()
        .unwrap();
    let spec = with_resources(
        shell(
            "cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device 2>/dev/null || cat /sys/fs/cgroup/io.max",
        ),
        |resources| {
            resources.set_block_io(Some(block));
        },
    );
    let text = fixture.run(&spec).ok();
    assert!(
        text.starts_with(&format!("{major}:{minor} ")) && text.contains("1048576"),
        "{text}"
    );
}

/// Numbers of a whole disk.
fn first_disk() -> Option<(i64, i64)> {
    let mut disks: Vec<_> = fs::read_dir("/sys/block").ok()?.flatten().collect();
    disks.sort_by_key(|disk| disk.file_name());
    disks.iter().find_map(|disk| {
        let text = fs::read_to_string(disk.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[test]
fn huge_pages_are_limited() {
    if skip() {
        return;
    }
    if !detect().unwrap().has(Controller::Hugetlb) {
        eprintln!("skipped: this host has no controller of huge pages");
        return;
    }
    let fixture = Fixture::new();
    let limit = LinuxHugepageLimitBuilder::default()
        .page_size("2MB")
        .limit(4_194_304_i64)
        .build()
        .unwrap();
    let spec = with_resources(
        shell(
            "cat /sys/fs/cgroup/*/hugetlb.2MB.max /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes 2>/dev/null; true",
        ),
        |resources| {
            resources.set_hugepage_limits(Some(vec![limit]));
        },
    );
    assert_eq!(fixture.run(&spec).ok(), "4194304\n");
}

#[test]
fn a_shared_mount_is_a_peer_of_the_hosts() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let source = fixture.directory.path().join("shared");
    fs::create_dir(&source).unwrap();
    fs::create_dir(source.join("inner")).unwrap();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = std::ffi::CString::new(source.to_str().unwrap()).unwrap();
    let mount = |source: &std::ffi::CStr, flags| {
        // SAFETY: every string is terminated; null pointers ask for nothing.
        let result = unsafe {
            libc::mount(
                source.as_ptr(),
                path.as_ptr(),
                std::ptr::null(),
                flags,
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0);
    };
    mount(&path, libc::MS_BIND);
    mount(c"none", libc::MS_SHARED);
    let mut spec = shell("mount -t tmpfs inside /data/inner && echo done");
    add(&mut spec, bind(&source, "/data", &["rbind", "rshared"]));
    let capabilities = [oci_spec::runtime::Capability::SysAdmin]
        .into_iter()
        .collect();
    let process = spec.process_mut().as_mut().unwrap();
    let mut sets = process.capabilities().clone().unwrap();
    let both: oci_spec::runtime::Capabilities = sets
        .bounding()
        .clone()
        .unwrap()
        .union(&capabilities)
        .copied()
        .collect();
    sets.set_bounding(Some(both.clone()))
        .set_permitted(Some(both.clone()))
        .set_effective(Some(both));
    process.set_capabilities(Some(sets));
    spec.linux_mut().as_mut().unwrap().set_seccomp(None);
    let said = fixture.run(&spec);
    let seen = mounts().contains("shared/inner");
    // SAFETY: the paths are terminated.
    unsafe {
        let inner = std::ffi::CString::new(source.join("inner").to_str().unwrap()).unwrap();
        libc::umount2(inner.as_ptr(), libc::MNT_DETACH);
        libc::umount2(path.as_ptr(), libc::MNT_DETACH);
    }
    assert_eq!(said.ok(), "done\n");
    assert!(seen, "what is mounted inside is seen outside");
    assert!(!mounts().contains("shared/inner"));
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` (uapi/linux/seccomp.h), and the requests to read and write them.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

#[repr(C)]
#[derive(Default)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[test]
fn somebody_else_answers_a_call() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    // What answers: every mkdir succeeds, without a directory being made.
    let answering = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut text = vec![0; 4096];
        let mut space = vec![0_u64; 8];
        let mut parts = [IoSliceMut::new(&mut text)];
        // SAFETY: the structure is plain integers and pointers, for which zero is a value; its buffers live on.
        let (length, descriptor) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = parts.as_mut_ptr().cast();
            message.msg_iovlen = 1;
            message.msg_control = space.as_mut_ptr().cast();
            message.msg_controllen = 64;
            let length = libc::recvmsg(stream.as_raw_fd(), &mut message, 0);
            let header = libc::CMSG_FIRSTHDR(&message);
            assert!(!header.is_null());
            let descriptor = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
            (length as usize, OwnedFd::from_raw_fd(descriptor))
        };
        let told: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
        let mut notification = [0_u64; 10];
        // SAFETY: the buffer has the structure's 80 bytes, all zero as the kernel wants them.
        let received =
            unsafe { libc::ioctl(descriptor.as_raw_fd(), RECEIVE, notification.as_mut_ptr()) };
        assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
        let response = Response {
            id: notification[0],
            ..Response::default()
        };
        // SAFETY: the structure is the one that the request takes.
        let sent = unsafe { libc::ioctl(descriptor.as_raw_fd(), SEND, &raw const response) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
        told
    });
    let mut spec = shell("mkdir /tmp/pretended && test ! -e /tmp/pretended && echo pretended");
    let call = LinuxSyscallBuilder::default()
        .names(vec!["mkdir".to_owned(), "mkdirat".to_owned()])
        .action(LinuxSeccompAction::ScmpActNotify)
        .build()
        .unwrap();
    let mut profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .syscalls(vec![call])
        .build()
        .unwrap();
    let error = {
        spec.linux_mut()
            .as_mut()
            .unwrap()
            .set_seccomp(Some(profile.clone()));
        fixture
            .start(&spec, fixture.overlay(), silent())
            .unwrap_err()
    };
    assert!(error.to_string().contains("listenerPath"), "{error}");
    profile
        .set_listener_path(Some(path))
        .set_listener_metadata(Some("opaque".to_owned()));
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_seccomp(Some(profile));
    assert_eq!(fixture.run(&spec).ok(), "pretended\n");
    let told = answering.join().unwrap();
    assert_eq!(told["fds"], serde_json::json!(["seccompFd"]));
    assert_eq!(told["metadata"], "opaque");
    assert_eq!(told["state"]["id"], fixture.id.as_str());
    assert_eq!(told["pid"], told["state"]["pid"]);
}

#[test]
fn proc_is_not_mounted_through_a_link_of_the_image() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    fs::remove_dir(fixture.root().join("proc")).unwrap();
    symlink("/data", fixture.root().join("proc")).unwrap();
    let error = fixture
        .run_in(&shell("true"), fixture.overlay())
        .unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
    assert!(error.to_string().contains("link"), "{error}");
}

#[test]
fn a_memory_policy_is_the_commands() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let mut spec = shell("grep -c 'bind:0' /proc/self/numa_maps");
    let mut policy = oci_spec::runtime::LinuxMemoryPolicy::default();
    policy
        .set_mode(oci_spec::runtime::MemoryPolicyModeType::MpolBind)
        .set_nodes(Some("0".to_owned()));
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_memory_policy(Some(policy));
    if !Path::new("/proc/self/numa_maps").exists() {
        eprintln!("skipped: this kernel has no memory nodes");
        return;
    }
    let count: u32 = fixture.run(&spec).ok().trim().parse().unwrap();
    assert!(count > 0);
}

#[test]
fn a_root_can_be_moved_in_place_of_a_pivot() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    let spec = shell("ls / | tr '\\n' ' '; cat /proc/1/comm; while :; do sleep 100; done");
    let (read_end, write) = common::pipe();
    let error = write.try_clone().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let stdio = container_core::Stdio::Descriptors([null.into(), write, error]);
    let mut launch = fixture.launch(&spec, fixture.overlay(), stdio);
    launch.no_pivot = true;
    let container = container_core::start(launch).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(read_end), &mut line).unwrap();
    assert_eq!(line, "bin data dev etc proc root sys tmp sh\n");
    let (mut output, write) = common::pipe();
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(vec!["ls".to_owned(), "/".to_owned()]));
    let init = container.init().unwrap().unwrap();
    let null = || fs::File::open("/dev/null").unwrap().into();
    let mut executed = container_core::exec(container_core::Exec {
        init: &init,
        process: &process,
        seccomp: None,
        cgroup: container.cgroup(),
        stdio: container_core::Stdio::Descriptors([null(), write, null()]),
        tied: true,
        preserve_fds: 0,
    })
    .unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut output, &mut text).unwrap();
    executed.wait().unwrap();
    assert_eq!(text, "bin\ndata\ndev\netc\nproc\nroot\nsys\ntmp\n");
}

#[test]
fn root_of_a_user_namespace_gets_what_it_could_not_reach() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    // Closed to everybody but the host's root, as a temporary directory is.
    let closed = fixture.directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let permissions: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&closed, permissions).unwrap();
    fs::write(closed.join("file"), "within reach").unwrap();
    let root = closed.join("root");
    fs::rename(fixture.root(), &root).unwrap();
    fs::write(root.join("data/file"), "").unwrap();
    chown(&root, Some(100_000), Some(100_000)).unwrap();
    let mut spec = shell("cat /data/file; id -u; ls /");
    add_namespace(&mut spec, LinuxNamespaceType::User);
    let mapping = LinuxIdMappingBuilder::default()
        .host_id(100_000_u32)
        .container_id(0_u32)
        .size(65_536_u32)
        .build()
        .unwrap();
    spec.linux_mut()
        .as_mut()
        .unwrap()
        .set_uid_mappings(Some(vec![mapping]))
        .set_gid_mappings(Some(vec![mapping]));
    add(
        &mut spec,
        bind(&closed.join("file"), "/data/file", &["bind", "ro"]),
    );
    let said = fixture
        .run_in(&spec, container_core::Rootfs::Directory(&root))
        .unwrap();
    assert!(said.stdout.starts_with("within reach0\nbin\n"), "{said:?}");
}
