//! What is measured: every metric of steady work, with the request that the resident workload gets for it.

use reports::results::{Direction, Group, Metric, Unit};

use crate::arm::Places;
use crate::arm::network::Client;

/// One metric of steady work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// Criterion's group and function: `cpu/sha256`.
    pub(crate) bench: (&'static str, &'static str),
    group: Group,
    title: &'static str,
    description: &'static str,
    /// What one iteration counts for.
    pub(crate) scale: Scale,
    /// The request, with `{n}` for the iterations and `{image}`, `{scratch}`, `{peer}`, `{triad}`, `{chase}` for what differs
    /// between arms and hosts.
    request: &'static str,
}

/// What one iteration counts for, and so what the metric is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// So many operations: nanoseconds each.
    Operations(u64),
    /// So many bytes: bytes a second.
    Bytes(u64),
    /// Three passes over an array of [`Sizes::triad`] bytes: bytes a second.
    Triad,
}

/// Sizes that depend on the host and the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of one of the three triad arrays.
    pub(crate) triad: u64,
    /// Bytes that the pointer chase goes through.
    pub(crate) chase: u64,
}

impl Sizes {
    /// STREAM wants arrays of at least four times the last-level cache; the three of them must leave a quarter of the
    /// memory limit to a guest's kernel and the workload itself.
    pub(crate) fn choose(last_level_cache: u64, memory_limit: u64) -> Self {
        let most = memory_limit / 4 * 3;
        let whole = |bytes: u64| (bytes >> 20 << 20).max(1 << 20);
        Self {
            triad: whole((4 * last_level_cache).max(16 << 20).min(most / 3)),
            chase: whole((4 * last_level_cache).max(64 << 20).min(most)),
        }
    }
}

impl Work {
    /// The metric's identity: `cpu.sha256`.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.bench.0, self.bench.1)
    }

    /// The metric's entry in the results.
    pub(crate) fn metric(&self, sizes: Sizes) -> Metric {
        let (unit, direction) = match self.scale {
            Scale::Operations(_) => (Unit::NanosecondsPerOperation, Direction::LowerIsBetter),
            Scale::Bytes(_) | Scale::Triad => (Unit::BytesPerSecond, Direction::HigherIsBetter),
        };
        Metric {
            id: self.id(),
            group: self.group,
            unit,
            direction,
            title: self.title.to_owned(),
            description: self
                .description
                .replace("{triad}", &format!("{} MiB", sizes.triad >> 20))
                .replace("{chase}", &format!("{} MiB", sizes.chase >> 20)),
        }
    }

    /// The request for `iterations` on an arm.
    pub(crate) fn request(&self, iterations: u64, places: &Places, sizes: Sizes) -> String {
        self.request
            .replace("{n}", &iterations.to_string())
            .replace("{image}", &places.image_file)
            .replace("{scratch}", &places.scratch)
            .replace("{peer}", &places.peer)
            .replace("{triad}", &sizes.triad.to_string())
            .replace("{chase}", &sizes.chase.to_string())
    }

    /// Bytes that must be written to before the work can begin.
    pub(crate) fn prepared_bytes(&self, sizes: Sizes) -> u64 {
        match self.bench {
            ("memory", "triad") => 3 * sizes.triad,
            ("memory", "chase") => sizes.chase,
            _ => 0,
        }
    }

    /// Whether the speed of an instance depends on which pages it happened to get: two native processes, one after the
    /// other, differ by a fifth in triad here. Then only many instances tell arms apart.
    pub(crate) fn depends_on_pages(&self) -> bool {
        matches!(self.bench, ("memory", "triad" | "chase"))
    }

    /// MiB of the file in the writable layer that must be there before the work can begin (bench/workload/src/work/file.rs).
    pub(crate) fn filled_mib(&self) -> u32 {
        if self.request.contains("{scratch}/file") {
            16
        } else {
            0
        }
    }

    /// Where the client of network work is; `None` for other work.
    pub(crate) fn client(&self) -> Option<Client> {
        match self.bench {
            ("network", name) if name.starts_with("published.") => Some(Client::OnHost),
            ("network", _) => Some(Client::InInstance),
            _ => None,
        }
    }

    /// How many times the plan's sample one of this work takes: a connection takes a while to its full speed.
    pub(crate) fn longer(&self) -> u32 {
        match (self.client(), self.scale) {
            (Some(_), Scale::Bytes(_)) => 5,
            _ => 1,
        }
    }

    /// Whether the work is to copy a MiB, which tells what [`Work::filled_mib`] will take.
    pub(crate) fn is_copy_of_a_mib(&self) -> bool {
        self.bench == ("file", "image-read")
    }

    /// Whether the work is the first touch of pages, which tells what [`Work::prepared_bytes`] will take.
    pub(crate) fn is_first_touch(&self) -> bool {
        self.bench == ("memory", "faults")
    }

    /// A sample's value from the time that `iterations` took.
    pub(crate) fn value(&self, iterations: u64, elapsed_ns: u64, sizes: Sizes) -> Option<f64> {
        if iterations == 0 || elapsed_ns == 0 {
            return None;
        }
        let (n, elapsed) = (iterations as f64, elapsed_ns as f64);
        Some(match self.scale {
            Scale::Operations(each) => elapsed / (n * each as f64),
            Scale::Bytes(each) => n * each as f64 * 1e9 / elapsed,
            Scale::Triad => n * 3.0 * sizes.triad as f64 * 1e9 / elapsed,
        })
    }
}

const MIB: u64 = 1 << 20;

/// All steady work, in the order of the report.
pub(crate) fn all() -> Vec<Work> {
    use Group::{Cpu, File, Kernel, Memory, Network};
    use Scale::{Bytes, Operations, Triad};
    let work = |bench, group, scale, request, title, description| Work {
        bench,
        group,
        title,
        description,
        scale,
        request,
    };
    vec![
        work(
            ("cpu", "sha256"),
            Cpu,
            Bytes(65536),
            "sha256 {n}",
            "SHA-256, one thread",
            "Integer work: SHA-256 over 64 KiB, in plain code without SHA instructions.",
        ),
        work(
            ("cpu", "sha256-all"),
            Cpu,
            Bytes(65536),
            "sha256 {n} threads=all",
            "SHA-256, all CPUs",
            "The same on as many threads as there are CPUs, each its own message; bytes a second of one thread.",
        ),
        work(
            ("cpu", "matrix"),
            Cpu,
            Operations(1),
            "matrix {n}",
            "Matrix product",
            "Floating point: the product of two 96 × 96 matrices of doubles, one thread, baseline SSE2.",
        ),
        work(
            ("cpu", "compress"),
            Cpu,
            Bytes(65536),
            "compress {n}",
            "Compressor",
            "Branchy work: a small LZ77 compressor packs and unpacks 64 KiB of text.",
        ),
        // First, since it tells what setting up the other two will take.
        work(
            ("memory", "faults"),
            Memory,
            Operations(1),
            "faults {n}",
            "First touch of a page",
            "Page faults: the first write to a fresh anonymous page of 4 KiB, huge pages off.",
        ),
        work(
            ("memory", "triad"),
            Memory,
            Triad,
            "triad {n} size={triad}",
            "STREAM triad",
            "Memory bandwidth: a = b + s·c over arrays of {triad} each, one thread.",
        ),
        work(
            ("memory", "chase"),
            Memory,
            Operations(1024),
            "chase {n} size={chase}",
            "Pointer chase",
            "Memory latency: loads that depend on each other, one to a cache line, in random order through {chase}.",
        ),
        work(
            ("kernel", "getpid"),
            Kernel,
            Operations(1),
            "getpid {n}",
            "getpid",
            "Kernel entry: the cheapest system call.",
        ),
        work(
            ("kernel", "pipe"),
            Kernel,
            Operations(1),
            "pipe {n}",
            "Pipe ping-pong",
            "One byte to another process and back, over two pipes.",
        ),
        work(
            ("kernel", "forkexec"),
            Kernel,
            Operations(1),
            "forkexec {n}",
            "fork + exec + wait",
            "A new process that executes a small static program, and its end.",
        ),
        work(
            ("kernel", "mmap"),
            Kernel,
            Operations(1),
            "mmap {n}",
            "mmap + munmap",
            "Mapping and unmapping 64 KiB of anonymous memory without touching it.",
        ),
        work(
            ("kernel", "create"),
            Kernel,
            Operations(1),
            "create {n} path={scratch}",
            "create + unlink",
            "Creating, closing and removing an empty file in the writable layer.",
        ),
        work(
            ("file", "image-read"),
            File,
            Bytes(MIB),
            "read {n} path={image}",
            "Image: sequential read, cached",
            "A file of the image in blocks of 1 MiB, from the instance's page cache.",
        ),
        work(
            ("file", "image-read-random"),
            File,
            Operations(1),
            "read {n} path={image} block=4096 pattern=random",
            "Image: random read, cached",
            "A file of the image in blocks of 4 KiB in random order, from the instance's page cache.",
        ),
        work(
            ("file", "image-read-direct"),
            File,
            Bytes(MIB),
            "read {n} path={image} direct=1",
            "Image: sequential read, O_DIRECT",
            "A file of the image in blocks of 1 MiB, past the instance's page cache. Below a VM the host's page cache may \
             still answer.",
        ),
        work(
            ("file", "image-read-random-direct"),
            File,
            Operations(1),
            "read {n} path={image} block=4096 pattern=random direct=1",
            "Image: random read, O_DIRECT",
            "A file of the image in blocks of 4 KiB in random order, past the instance's page cache. Below a VM the host's \
             page cache may still answer.",
        ),
        work(
            ("file", "layer-write"),
            File,
            Bytes(MIB),
            "write {n} path={scratch}/file",
            "Writable layer: sequential write, cached",
            "A file of 16 MiB in the writable layer, overwritten in blocks of 1 MiB, into the page cache.",
        ),
        work(
            ("file", "layer-write-random"),
            File,
            Operations(1),
            "write {n} path={scratch}/file block=4096 pattern=random",
            "Writable layer: random write, cached",
            "The same file, overwritten in blocks of 4 KiB in random order, into the page cache.",
        ),
        work(
            ("file", "layer-write-direct"),
            File,
            Bytes(MIB),
            "write {n} path={scratch}/file direct=1",
            "Writable layer: sequential write, O_DIRECT",
            "The same file, overwritten in blocks of 1 MiB, past the instance's page cache.",
        ),
        work(
            ("file", "layer-write-random-direct"),
            File,
            Operations(1),
            "write {n} path={scratch}/file block=4096 pattern=random direct=1",
            "Writable layer: random write, O_DIRECT",
            "The same file, overwritten in blocks of 4 KiB in random order, past the instance's page cache.",
        ),
        work(
            ("file", "fsync"),
            File,
            Operations(1),
            "fsync {n} path={scratch}/file",
            "Writable layer: write + fsync",
            "4 KiB written to the same file, and the wait until the disk has it.",
        ),
        work(
            ("network", "published.latency"),
            Network,
            Operations(1),
            "rr {n} peer={peer}",
            "Published port: request and response",
            "64 bytes from the host to the published port of a server in the instance and back, on one TCP connection; natively over \
             the loopback interface.",
        ),
        work(
            ("network", "published.throughput"),
            Network,
            Bytes(131_072),
            "stream {n} peer={peer}",
            "Published port: stream",
            "A TCP stream in blocks of 128 KiB from the host to the published port of a server in the instance; natively over the \
             loopback interface.",
        ),
        work(
            ("network", "between.latency"),
            Network,
            Operations(1),
            "rr {n} peer={peer}",
            "Instance to instance: request and response",
            "64 bytes from one instance to another on the same bridge and back, on one TCP connection; natively from process to \
             process over the loopback interface.",
        ),
        work(
            ("network", "between.throughput"),
            Network,
            Bytes(131_072),
            "stream {n} peer={peer}",
            "Instance to instance: stream",
            "A TCP stream in blocks of 128 KiB from one instance to another on the same bridge; natively from process to process over \
             the loopback interface.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_unique_and_requests_are_complete() {
        let places = Places {
            image_file: "/i".to_owned(),
            scratch: "/s".to_owned(),
            peer: "1.2.3.4:80".to_owned(),
        };
        let sizes = Sizes::choose(32 << 20, 256 << 20);
        let mut seen = std::collections::BTreeSet::new();
        for work in all() {
            assert!(seen.insert(work.id()), "{} twice", work.id());
            let request = work.request(5, &places, sizes);
            assert!(
                !request.contains('{') && request.contains(" 5"),
                "{request}"
            );
            assert!(!work.metric(sizes).description.contains('{'));
        }
    }

    #[test]
    fn arrays_are_four_times_the_cache_where_the_limit_leaves_room() {
        let roomy = Sizes::choose(32 << 20, 8 << 30);
        assert_eq!(roomy.triad, 128 << 20);
        let tight = Sizes::choose(32 << 20, 256 << 20);
        assert_eq!((tight.triad, tight.chase), (64 << 20, 128 << 20));
        assert!(3 * tight.triad < 256 << 20);
    }

    #[test]
    fn values_are_in_the_metrics_unit() {
        let sizes = Sizes {
            triad: 1000,
            chase: 1000,
        };
        let find = |id: &str| all().into_iter().find(|work| work.id() == id).unwrap();
        assert_eq!(find("kernel.getpid").value(10, 500, sizes), Some(50.0));
        assert_eq!(find("memory.chase").value(1, 1024, sizes), Some(1.0));
        assert_eq!(find("memory.triad").value(2, 1000, sizes), Some(6e9));
        assert_eq!(find("cpu.sha256").value(1, 0, sizes), None);
    }
}
