use super::*;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::state::{QueueState, TransportState};

/// What is kept of a machine of 64 MiB with nothing in it.
pub(crate) fn saved() -> Saved {
    Saved {
        fit: Fit::example(),
        saved_at: 1_700_000_000,
        cpus: vec![CpuState::default()],
        system: SystemState::default(),
        serial: SerialState::default().into(),
        slots: vec![
            SlotState {
                pending: 0,
                transport: TransportState {
                    kind: 4,
                    status: 15,
                    device_features_select: 0,
                    driver_features_select: 0,
                    driver_features: 1 << 32,
                    queue_select: 0,
                    queues: vec![QueueState {
                        size: 8,
                        ready: true,
                        event_idx: false,
                        next_available: 3,
                        next_used: 3,
                        table: 0x10_0000,
                        available: 0x10_1000,
                        used: 0x10_2000,
                    }],
                    device: Vec::new(),
                },
            };
            1
        ],
        memory: vec![Extent {
            offset: 0x10_0000,
            bytes: 0x1000,
        }],
    }
}

/// A file with this body and what belongs before it.
pub(crate) fn file(body: &[u8]) -> Vec<u8> {
    let heading = Heading {
        plimsoll: TITLE.to_owned(),
        version: VERSION,
        sha256: digest(body),
    };
    let mut file = serde_json::to_vec(&heading).unwrap();
    file.push(b'\n');
    file.extend_from_slice(body);
    file
}

fn again(saved: &Saved) -> Result<Saved, String> {
    Saved::decode(&saved.encode().unwrap())
}

#[test]
fn what_is_kept_comes_back() {
    let file = saved().encode().unwrap();
    let read = Saved::decode(&file).unwrap();
    assert_eq!(read.encode().unwrap(), file);
    assert!((file.len() as u64) < MAX_BYTES / 64);
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let part = |offset, bytes| Extent { offset, bytes };
    for memory in [
        vec![part(0, 0)],
        vec![part(0, 100)],
        vec![part(100, 4096)],
        vec![part(64 << 20, 4096)],
        vec![part(0, (64 << 20) + 4096)],
        vec![part(u64::MAX - 4095, 8192)],
        vec![part(0x2000, 4096), part(0x1000, 4096)],
        vec![part(0, 8192), part(4096, 4096)],
        (0..MAX_EXTENTS as u64 + 1)
            .map(|n| part(n << 12, 4096))
            .collect(),
    ] {
        let mut bad = saved();
        bad.memory = memory;
        assert!(again(&bad).unwrap_err().contains("memory"));
    }
    let mut bad = saved();
    bad.fit.vcpus = 2;
    assert!(again(&bad).unwrap_err().contains("virtual CPUs"));
    let mut bad = saved();
    bad.fit.memory_mib = u32::MAX;
    assert!(again(&bad).unwrap_err().contains("size"));
}

/// What becomes of a device in this state.
pub(crate) fn restore(state: &SlotState) -> Result<(), crate::devices::virtio::queue::Broken> {
    let memory = std::sync::Arc::new(crate::memory::allocate(64).unwrap());
    let device: Box<dyn crate::devices::virtio::VirtioDevice> = match state.transport.kind {
        3 => {
            let (_, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            Box::new(crate::devices::virtio::console::Console::new("port", theirs).unwrap())
        }
        _ => Box::new(crate::devices::virtio::rng::Rng),
    };
    let slot = Slot::new(0xd000_0000, 5, device, &memory).unwrap();
    slot.restore(state)?;
    for queue in 0..slot.kicks.len() {
        slot.notified(queue);
    }
    slot.finish();
    Ok(())
}

#[test]
fn a_device_in_a_state_that_no_driver_brings_about_is_refused() {
    let good = saved().slots.remove(0);
    restore(&good).unwrap();
    let refused = |change: fn(&mut SlotState)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(restore(&bad).is_err(), "{bad:?}");
    };
    refused(|bad| bad.pending = 4);
    refused(|bad| bad.transport.kind = 3);
    refused(|bad| bad.transport.status = 5);
    refused(|bad| bad.transport.status = 0x4f);
    refused(|bad| bad.transport.status = 3);
    refused(|bad| bad.transport.driver_features = 0);
    refused(|bad| bad.transport.driver_features |= 1 << 50);
    refused(|bad| bad.transport.queues.clear());
    refused(|bad| bad.transport.device = vec![1]);
    refused(|bad| bad.transport.queues[0].event_idx = true);
    refused(|bad| bad.transport.queues[0].size = 7);
    refused(|bad| bad.transport.queues[0].size = 16);
    refused(|bad| bad.transport.queues[0].table = 64 << 20);
    refused(|bad| bad.transport.queues[0].used = u64::MAX - 7);
    refused(|bad| bad.transport.queues[0].available = 0x10_0001);
}

#[test]
fn what_a_template_does_not_fit_is_named() {
    let own = Fit::example();
    let differs = |change: fn(&mut Fit)| {
        let mut wanted = Fit::example();
        change(&mut wanted);
        own.differs_from(&wanted).unwrap()
    };
    assert_eq!(own.differs_from(&Fit::example()), None);
    assert!(differs(|fit| fit.monitor.push('9')).contains("version"));
    assert!(differs(|fit| fit.host.clear()).contains("host's kernel"));
    assert!(differs(|fit| fit.processor.clear()).contains("another processor"));
    assert!(differs(|fit| fit.memory_mib = 65).contains("size in MiB of 64, and this is 65"));
    assert!(differs(|fit| fit.vcpus = 2).contains("number of CPUs of 1, and this is 2"));
    assert!(differs(|fit| fit.command_line.push('x')).contains("command line"));
    assert!(differs(|fit| fit.places = 3).contains("places"));
}
