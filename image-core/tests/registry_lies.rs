//! A registry that lies, breaks, stalls and refuses, on 127.0.0.1 in this process: nothing half made is ever seen, every failure is a
//! sentence, and the next attempt goes on.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fixture, Parts, Tar, gzip, is_root, names};
use image_core::registry::{
    Client, Credentials, DockerConfig, Patience, Platform, RegistryError, Server,
};
use image_core::{Digest, Error, Reference};

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// The first byte that is asked for.
    fn from(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// An answer, which need not be a good one.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What Content-Length says, in place of the truth.
    claims: Option<usize>,
    /// The connection ends after so many bytes of the body.
    cut: Option<usize>,
    /// The body goes on for ever.
    endless: bool,
    /// Nothing more comes, and the connection stays.
    stalls: bool,
}

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Rule = dyn Fn(&Asked, &Image) -> Option<Answer> + Send + Sync;

/// The image that the registry has.
struct Image {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

struct Registry {
    address: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Registry {
    /// Serves `parts` as test:1; `rule` may answer otherwise.
    fn new(
        parts: &Parts,
        rule: impl Fn(&Asked, &Image) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let (mut blobs, _) = parts.blobs();
        let manifest = blobs.pop().unwrap();
        Self::serve(Image { manifest, blobs }, Box::new(rule))
    }

    fn serve(image: Image, rule: Box<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let shared = Arc::new((image, rule, log.clone()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let (image, rule, log) = &*shared;
                    let mut reader = BufReader::new(stream);
                    while let Some(asked) = read_request(&mut reader) {
                        log.lock().unwrap().push(asked.clone());
                        let answer = rule(&asked, image).unwrap_or_else(|| honest(&asked, image));
                        if !write_answer(reader.get_mut(), &asked, answer) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, log }
    }

    fn name(&self) -> Reference {
        format!("{}/test:1", self.address).parse().unwrap()
    }

    fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// How often something was asked for whose path holds `part`.
    fn count(&self, part: &str) -> usize {
        self.log()
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((key, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(key, _)| key == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        headers,
    })
}

/// False when the connection is over.
fn write_answer(stream: &mut TcpStream, asked: &Asked, answer: Answer) -> bool {
    let length = answer.claims.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    if answer.endless {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (key, value) in &answer.headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    head.push_str("\r\n");
    if stream.write_all(head.as_bytes()).is_err() {
        return false;
    }
    if asked.method == "HEAD" {
        return true;
    }
    if answer.endless {
        let chunk = [&b"10000\r\n"[..], &vec![b'x'; 0x10000], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
        return false;
    }
    let body = &answer.body[..answer
        .cut
        .unwrap_or(answer.body.len())
        .min(answer.body.len())];
    if stream.write_all(body).is_err() {
        return false;
    }
    if answer.stalls {
        std::thread::sleep(Duration::from_secs(600));
    }
    answer.cut.is_none()
        && answer
            .claims
            .is_none_or(|claimed| claimed <= answer.body.len())
}

/// What a registry that keeps to the specification answers.
fn honest(asked: &Asked, image: &Image) -> Answer {
    if asked.path == "/v2/" {
        return Answer::ok("{}");
    }
    if asked.path == "/v2/test/manifests/1"
        || asked
            .path
            .ends_with(&Digest::of(&image.manifest).to_string())
    {
        return Answer::ok(image.manifest.clone())
            .with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            .with(
                "Docker-Content-Digest",
                Digest::of(&image.manifest).to_string(),
            );
    }
    let blob = image
        .blobs
        .iter()
        .find(|blob| asked.path.ends_with(&Digest::of(blob).to_string()));
    match (blob, asked.from()) {
        (Some(blob), Some(from)) => Answer {
            status: 206,
            body: blob[from..].to_vec(),
            ..Answer::default()
        }
        .with(
            "Content-Range",
            format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()),
        ),
        (Some(blob), None) => Answer::ok(blob.clone()),
        _ => Answer::status(404),
    }
}

fn is_layer(asked: &Asked, image: &Image) -> bool {
    let layers = &image.blobs[1..];
    layers
        .iter()
        .any(|blob| asked.path.ends_with(&Digest::of(blob).to_string()))
}

/// Three layers of noise that no compression makes small, the first of a megabyte.
fn parts() -> Parts {
    let mut state = 88_172_645_463_325_252u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let word = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..length / 8).flat_map(word).collect()
    };
    Parts {
        compress: gzip,
        layer_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        ..Parts::new(vec![
            Tar::new()
                .dir("etc/")
                .file("etc/first", noise(1 << 20))
                .done(),
            Tar::new().file("etc/second", noise(1 << 16)).done(),
            Tar::new().file("etc/third", "top").done(),
        ])
    }
}

fn quick() -> Patience {
    Patience {
        attempts: 4,
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_secs(2),
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(20),
    }
}

fn client(fixture: &Fixture, patience: Patience) -> Client {
    Client::with_patience(DockerConfig::in_directory(fixture.dir.path()), patience)
}

fn pull(
    fixture: &Fixture,
    registry: &Registry,
) -> image_core::Result<image_core::registry::Pulled> {
    let client = client(fixture, quick());
    fixture
        .store
        .pull(&client, &registry.name(), &Platform::default(), &())
}

/// The error of a pull, after it has been shown that nothing can be seen of it.
#[track_caller]
fn refused(
    parts: &Parts,
    rule: impl Fn(&Asked, &Image) -> Option<Answer> + Send + Sync + 'static,
) -> (Error, Registry) {
    let fixture = Fixture::new();
    let registry = Registry::new(parts, rule);
    let error = pull(&fixture, &registry).unwrap_err();
    fixture.assert_empty();
    let said = error.to_string();
    assert!(
        !said.contains('\n') && said.len() < 600,
        "one sentence is wanted: {said}"
    );
    (error, registry)
}

#[track_caller]
fn assert_whole(fixture: &Fixture, registry: &Registry, parts: &Parts) {
    let image = fixture.store.resolve(&registry.name().to_string()).unwrap();
    assert_eq!(image.id, Digest::of(&parts.config()));
    assert_eq!(
        fixture
            .store
            .read_file(&image, "etc/third", 9)
            .unwrap()
            .unwrap(),
        b"top"
    );
    assert!(names(&fixture.store.root().join("tmp")).is_empty());
    assert!(names(&fixture.store.root().join("incoming")).is_empty());
}

#[test]
fn an_honest_registry_is_believed_and_asked_once_for_each_blob() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let registry = Registry::new(&parts, |_, _| None);
    let pulled = pull(&fixture, &registry).unwrap();
    assert!(pulled.newer);
    assert_whole(&fixture, &registry, &parts);
    assert_eq!(registry.count("/blobs/"), 4);
    // A second time only the manifest is looked at.
    let again = pull(&fixture, &registry).unwrap();
    assert!(!again.newer && again.image.id == pulled.image.id);
    assert_eq!(registry.count("/blobs/"), 4);
}

#[test]
fn layers_that_are_here_are_not_fetched_again() {
    if !is_root() {
        return;
    }
    let (fixture, first) = (Fixture::new(), parts());
    pull(&fixture, &Registry::new(&first, |_, _| None)).unwrap();
    let mut layers = first.layers.clone();
    layers.push(Tar::new().file("etc/fourth", "new").done());
    let second = Parts { layers, ..parts() };
    let registry = Registry::new(&second, |_, _| None);
    pull(&fixture, &registry).unwrap();
    // The configuration and the new layer.
    assert_eq!(registry.count("/blobs/"), 2);
}

#[test]
fn content_with_another_digest_is_refused() {
    let (error, _) = refused(&parts(), |asked, image| {
        is_layer(asked, image).then(|| {
            let honest = honest(asked, image);
            let mut body = honest.body;
            let last = body.len() - 1;
            body[last] ^= 1;
            Answer::ok(body)
        })
    });
    assert!(!matches!(error, Error::Io { .. }), "{error}");
    let (error, _) = refused(&parts(), |asked, image| {
        asked
            .path
            .ends_with(&Digest::of(&image.blobs[0]).to_string())
            .then(|| Answer::ok(vec![b' '; image.blobs[0].len()]))
    });
    assert!(
        error.to_string().contains("lies about configuration"),
        "{error}"
    );
    let (error, _) = refused(&parts(), |asked, image| {
        asked.path.ends_with("manifests/1").then(|| {
            Answer::ok(image.manifest.clone())
                .with("Docker-Content-Digest", Digest::of(b"x").to_string())
        })
    });
    assert!(
        error.to_string().contains("lies about manifest 1"),
        "{error}"
    );
}

#[test]
fn a_layer_that_is_another_valid_archive_is_refused() {
    let (error, _) = refused(&parts(), |asked, image| {
        is_layer(asked, image).then(|| {
            let other = gzip(&Tar::new().file("evil", "x").done());
            let length = honest(asked, image).body.len();
            // Padded to the stated length by members that hold nothing.
            let mut body = other;
            while body.len() + 40 < length {
                body.extend(gzip(b""));
            }
            body.resize(length, 0);
            Answer::ok(body)
        })
    });
    assert!(error.to_string().contains("layer sha256:"), "{error}");
}

#[test]
fn content_of_another_length_is_refused() {
    for more in [-1i64, 1, 70_000] {
        let (error, _) = refused(&parts(), move |asked, image| {
            is_layer(asked, image).then(|| {
                let mut body = honest(asked, image).body;
                let length = usize::try_from(body.len() as i64 + more).unwrap();
                body.resize(length, b'x');
                Answer::ok(body)
            })
        });
        assert!(error.to_string().contains("where"), "{error}");
    }
}

#[test]
fn a_body_without_an_end_is_left_when_it_is_too_long() {
    let endless = |_: &Asked| Answer {
        status: 200,
        endless: true,
        ..Answer::default()
    };
    let (error, _) = refused(&parts(), move |asked, image| {
        is_layer(asked, image).then(|| endless(asked))
    });
    assert!(error.to_string().contains("layer"), "{error}");
    let (error, _) = refused(&parts(), move |asked, _| {
        asked.path.contains("/manifests/").then(|| endless(asked))
    });
    assert!(
        matches!(error, Error::Registry(RegistryError::TooLong { .. })),
        "{error}"
    );
    let (error, _) = refused(&parts(), move |asked, image| {
        asked
            .path
            .ends_with(&Digest::of(&image.blobs[0]).to_string())
            .then(|| endless(asked))
    });
    assert!(
        matches!(error, Error::Registry(RegistryError::TooLong { .. })),
        "{error}"
    );
}

#[test]
fn redirections_in_a_circle_end() {
    let (error, registry) = refused(&parts(), |asked, image| {
        is_layer(asked, image).then(|| Answer::status(307).with("Location", asked.path.clone()))
    });
    assert!(error.to_string().contains("in a circle"), "{error}");
    assert!(registry.count("/blobs/") < 30);
    let (error, _) = refused(&parts(), |asked, image| {
        is_layer(asked, image).then(|| Answer::status(302).with("Location", "http://192.0.2.1/x"))
    });
    assert!(error.to_string().contains("no TLS"), "{error}");
    let (error, _) = refused(&parts(), |asked, image| {
        is_layer(asked, image).then(|| Answer::status(301))
    });
    assert!(error.to_string().contains("to nowhere"), "{error}");
}

#[test]
fn credentials_do_not_follow_a_redirection_to_another_host() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let storage = Registry::new(&parts, |_, _| None);
    let to = storage.address.clone();
    let registry = Registry::new(&parts, move |asked, image| {
        if asked.header("authorization").is_none() {
            return Some(Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        is_layer(asked, image)
            .then(|| Answer::status(307).with("Location", format!("http://{to}{}", asked.path)))
    });
    let client = client(&fixture, quick());
    let server = Server::parse(&registry.address).unwrap();
    let me = Credentials::Password {
        user: "me".to_owned(),
        password: "secret".to_owned(),
    };
    client.login(&server, &me).unwrap();
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
    assert_eq!(storage.count("/blobs/"), 3);
    assert!(
        storage
            .log()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says() {
    if !is_root() {
        return;
    }
    for status in [429, 500, 502, 503, 504] {
        let (fixture, parts) = (Fixture::new(), parts());
        let refusals = Mutex::new(std::collections::HashMap::<String, u32>::new());
        let registry = Registry::new(&parts, move |asked, _| {
            let mut refusals = refusals.lock().unwrap();
            let count = refusals.entry(asked.path.clone()).or_default();
            *count += 1;
            (*count <= 2).then(|| Answer::status(status).with("Retry-After", "0"))
        });
        pull(&fixture, &registry).unwrap();
        assert_whole(&fixture, &registry, &parts);
    }
}

#[test]
fn a_registry_that_stays_busy_is_given_up_with_its_status() {
    for status in [429, 503] {
        let (error, registry) = refused(&parts(), move |asked, image| {
            is_layer(asked, image).then(|| {
                let mut answer = Answer::status(status);
                answer.body =
                    br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow \u001b[31mdown"}]}"#
                        .to_vec();
                answer
            })
        });
        let said = error.to_string();
        assert!(
            said.contains(&status.to_string()) && said.contains("slow"),
            "{said}"
        );
        assert!(!said.contains('\u{1b}'), "{said}");
        assert!(registry.count("/blobs/") <= 1 + 3 * 4);
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let registry = Registry::new(&parts, |asked, image| {
        // 100 000 bytes each time.
        is_layer(asked, image).then(|| Answer {
            cut: Some(100_000),
            ..honest(asked, image)
        })
    });
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
    let starts: Vec<usize> = registry.log().iter().filter_map(Asked::from).collect();
    assert!(
        starts.len() >= 10 && starts.is_sorted() && starts.contains(&300_000),
        "{starts:?}"
    );
}

#[test]
fn a_registry_without_ranges_sends_everything_again() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let first = Mutex::new(true);
    let registry = Registry::new(&parts, move |asked, image| {
        is_layer(asked, image).then(|| {
            let blob = image
                .blobs
                .iter()
                .find(|b| asked.path.ends_with(&Digest::of(b).to_string()))
                .unwrap();
            let mut answer = Answer::ok(blob.clone());
            if blob.len() > 500_000 && std::mem::take(&mut *first.lock().unwrap()) {
                answer.cut = Some(400_000);
            }
            answer
        })
    });
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
}

#[test]
fn the_next_attempt_goes_on_from_what_an_earlier_one_left() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let broken = Mutex::new(true);
    let mends = Arc::new(broken);
    let rule = mends.clone();
    let registry = Registry::new(&parts, move |asked, image| {
        if !is_layer(asked, image) || !*rule.lock().unwrap() {
            return None;
        }
        // Ends after 600 000 bytes, and then has nothing more to say.
        Some(match asked.from() {
            None => Answer {
                cut: Some(600_000),
                ..honest(asked, image)
            },
            Some(_) => Answer::status(503),
        })
    });
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    fixture.assert_empty();
    *mends.lock().unwrap() = false;
    let before = registry.log().len();
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
    let log = registry.log();
    let large = log[before..].iter().filter_map(Asked::from).max();
    // Whole chunks of 256 KiB are kept.
    assert!(large.is_some_and(|from| from >= 512 << 10), "{large:?}");
}

#[test]
fn what_an_earlier_attempt_left_damaged_is_fetched_anew() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let registry = Registry::new(&parts, |_, _| None);
    let incoming = fixture.store.root().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    let (blobs, _) = parts.blobs();
    for (layer, content) in [
        (1, vec![0; 300_000]),
        (2, vec![b'x'; 10]),
        (3, vec![b'x'; 1 << 20]),
    ] {
        std::fs::write(incoming.join(Digest::of(&blobs[layer]).hex()), content).unwrap();
    }
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
}

#[test]
fn a_registry_that_stands_still_is_left() {
    let fixture = Fixture::new();
    let registry = Registry::new(&parts(), |asked, image| {
        is_layer(asked, image).then(|| Answer {
            stalls: true,
            cut: Some(10),
            ..honest(asked, image)
        })
    });
    let patience = Patience {
        attempts: 2,
        silence: Duration::from_millis(300),
        ..quick()
    };
    let client = client(&fixture, patience);
    let error = fixture
        .store
        .pull(&client, &registry.name(), &Platform::default(), &())
        .unwrap_err();
    assert!(error.to_string().contains("layer"), "{error}");
    fixture.assert_empty();
}

#[test]
fn answers_with_the_wrong_part_are_refused() {
    let first = Mutex::new(std::collections::HashSet::<String>::new());
    let (error, _) = refused(&parts(), move |asked, image| {
        if !is_layer(asked, image) {
            return None;
        }
        if first.lock().unwrap().insert(asked.path.clone()) {
            return Some(Answer {
                cut: Some(3),
                ..honest(asked, image)
            });
        }
        let mut answer = honest(asked, image);
        answer.headers = vec![("Content-Range", "bytes 0-2/3".to_owned())];
        Some(answer)
    });
    assert!(error.to_string().contains("something else"), "{error}");
}

#[test]
fn what_is_no_image_for_this_machine_is_refused_by_name() {
    let with_manifest = |manifest: String, expected: &str| {
        let (error, _) = refused(&parts(), move |asked, _| {
            asked
                .path
                .ends_with("manifests/1")
                .then(|| Answer::ok(manifest.clone()))
        });
        assert!(error.to_string().contains(expected), "{error}");
    };
    let digest = Digest::of(b"x");
    let config = format!(
        r#"{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{digest}","size":1}}"#
    );
    let good = format!(
        r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":1}}"#
    );
    let platform = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"arm64"}}}}"#
    );
    with_manifest(
        r#"{"schemaVersion":1,"name":"x","tag":"1"}"#.to_owned(),
        "schema 1",
    );
    with_manifest(
        r#"{"schemaVersion":2,"mediaType":"application/x-unknown"}"#.to_owned(),
        "application/x-unknown",
    );
    with_manifest(
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
        "helm",
    );
    with_manifest(
        format!(r#"{{"schemaVersion":2,"config":{good},"layers":[],"manifests":[]}}"#),
        "at the same time",
    );
    with_manifest(
        format!(r#"{{"schemaVersion":2,"manifests":[{platform}]}}"#),
        "linux/arm64",
    );
    with_manifest(
        r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
        "nothing",
    );
    with_manifest("not json".to_owned(), "not valid");
    with_manifest("[".repeat(100_000), "not valid");
    with_manifest(String::new(), "not valid");
    let foreign = Parts {
        architecture: "arm64",
        ..parts()
    };
    let (error, _) = refused(&foreign, |_, _| None);
    assert!(error.to_string().contains("linux/arm64"), "{error}");
    let encrypted = Parts {
        layer_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        ..parts()
    };
    let (error, _) = refused(&encrypted, |_, _| None);
    assert!(error.to_string().contains("encrypted"), "{error}");
}

#[test]
fn an_index_that_holds_itself_or_too_many_others_is_refused() {
    let (error, _) = refused(&parts(), |asked, _| {
        let reference = asked.path.strip_prefix("/v2/test/manifests/")?;
        // An index whose content does not have the digest that it was asked by.
        let inner = Digest::of(reference.as_bytes());
        Some(Answer::ok(format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{inner}","size":1}}]}}"#
        )))
    });
    assert!(error.to_string().contains("lies about"), "{error}");
}

#[test]
fn an_image_that_is_not_there_or_not_ours_is_said_as_docker_says_it() {
    let (error, registry) = refused(&parts(), |asked, _| {
        asked
            .path
            .contains("/manifests/")
            .then(|| Answer::status(404))
    });
    assert_eq!(
        error.to_string(),
        format!(
            "manifest for {} not found: manifest unknown",
            registry.name()
        )
    );
    let (error, _) = refused(&parts(), |asked, _| {
        asked
            .path
            .contains("/manifests/")
            .then(|| Answer::status(403))
    });
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let (error, _) = refused(&parts(), |asked, _| {
        asked
            .path
            .contains("/manifests/")
            .then(|| Answer::status(401).with("WWW-Authenticate", "Negotiate"))
    });
    assert!(error.to_string().contains("login"), "{error}");
}

#[test]
fn a_registry_that_is_not_there_is_said_at_once() {
    let fixture = Fixture::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = client(&fixture, Patience::default());
    let name = format!("127.0.0.1:{port}/x").parse().unwrap();
    let started = std::time::Instant::now();
    let error = fixture
        .store
        .pull(&client, &name, &Platform::default(), &())
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it was tried again and again"
    );
    fixture.assert_empty();
}

/// A registry whose tokens end after so many uses.
fn with_tokens(parts: &Parts, uses: u32) -> Registry {
    let (token, left) = (Mutex::new(0u32), Mutex::new(0u32));
    let own = Arc::new(Mutex::new(String::new()));
    let address = own.clone();
    let registry = Registry::new(parts, move |asked, _| {
        let mut token = token.lock().unwrap();
        let mut left = left.lock().unwrap();
        if asked.path.starts_with("/token") {
            *token += 1;
            *left = uses;
            return Some(Answer::ok(format!(
                r#"{{"token":"t{token}","expires_in":300}}"#
            )));
        }
        let good = asked.header("authorization") == Some(&format!("Bearer t{token}"));
        if good && *left > 0 {
            *left -= 1;
            return None;
        }
        let realm = format!("http://{}/token", address.lock().unwrap());
        Some(Answer::status(401).with(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm}\",service=\"s s\",scope=\"repository:test:pull\""),
        ))
    });
    own.lock().unwrap().clone_from(&registry.address);
    registry
}

#[test]
fn a_token_that_ends_too_early_is_asked_for_again() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let registry = with_tokens(&parts, 2);
    pull(&fixture, &registry).unwrap();
    assert_whole(&fixture, &registry, &parts);
    let tokens = registry.count("/token");
    assert!((2..=10).contains(&tokens), "{tokens}");
    let log = registry.log();
    let asked = log
        .iter()
        .find(|asked| asked.path.starts_with("/token"))
        .unwrap();
    assert!(
        asked.path.contains("service=s%20s")
            && asked.path.contains("scope=repository%3Atest%3Apull"),
        "{}",
        asked.path
    );
}

#[test]
fn a_token_that_is_never_good_ends_the_pull() {
    let fixture = Fixture::new();
    let registry = with_tokens(&parts(), 0);
    let error = pull(&fixture, &registry).unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    assert!(registry.count("/token") <= 4);
    fixture.assert_empty();
}

#[test]
fn authorities_that_answer_nonsense_or_would_take_the_password_in_the_open_are_refused() {
    for (realm, body, expected) in [
        ("http://192.0.2.1/token", "", "TLS"),
        ("file:///etc/passwd", "", "no valid address"),
        ("/token", "", "TLS"),
        ("", "{}", "no token"),
        ("", "x", "not valid"),
        ("", r#"{"token":"a\r\nX-Evil: b"}"#, "no token"),
    ] {
        let own = Arc::new(Mutex::new(String::new()));
        let address = own.clone();
        let fixture = Fixture::new();
        let registry = Registry::new(&parts(), move |asked, _| {
            if asked.path.starts_with("/token") {
                return Some(Answer::ok(body));
            }
            let realm = if realm.is_empty() {
                format!("http://{}/token", address.lock().unwrap())
            } else {
                realm.to_owned()
            };
            Some(Answer::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")))
        });
        own.lock().unwrap().clone_from(&registry.address);
        let error = pull(&fixture, &registry).unwrap_err();
        assert!(error.to_string().contains(expected), "{realm}: {error}");
        fixture.assert_empty();
    }
}

#[test]
fn credentials_that_a_registry_does_not_take_are_not_kept() {
    let fixture = Fixture::new();
    let registry = Registry::new(&parts(), |asked, _| {
        // me:right
        (asked.header("authorization") != Some("Basic bWU6cmlnaHQ="))
            .then(|| Answer::status(401).with("WWW-Authenticate", "Basic realm=x"))
    });
    let client = client(&fixture, quick());
    let server = Server::parse(&registry.address).unwrap();
    let with = |password: &str| Credentials::Password {
        user: "me".to_owned(),
        password: password.to_owned(),
    };
    let error = client.login(&server, &with("wrong")).unwrap_err();
    assert!(
        matches!(error, RegistryError::BadCredentials { .. }),
        "{error}"
    );
    assert!(client.credentials(&server).unwrap().is_none());
    client.login(&server, &with("right")).unwrap();
    assert_eq!(client.credentials(&server).unwrap(), Some(with("right")));
}

#[test]
fn two_pulls_of_the_same_image_fetch_each_layer_once() {
    if !is_root() {
        return;
    }
    let (fixture, parts) = (Fixture::new(), parts());
    let registry = Registry::new(&parts, |asked, image| {
        if is_layer(asked, image) {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    std::thread::scope(|scope| {
        let pulls = [(); 3]
            .map(|()| scope.spawn(|| pull(&fixture, &registry).map(|pulled| pulled.image.id)));
        for done in pulls {
            done.join().unwrap().unwrap();
        }
    });
    assert_whole(&fixture, &registry, &parts);
    let layers = registry
        .log()
        .iter()
        .filter(|a| a.path.contains("/blobs/"))
        .count();
    assert!(layers <= 3 + 3, "{layers}");
}

#[test]
fn a_limit_that_is_passed_leaves_nothing_visible() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let registry = Registry::new(&parts(), |_, _| None);
    let limits = image_core::Limits {
        layer_bytes: 1 << 16,
        ..image_core::Limits::default()
    };
    let small = fixture.store.clone().with_limits(limits);
    let error = small
        .pull(
            &client(&fixture, quick()),
            &registry.name(),
            &Platform::default(),
            &(),
        )
        .unwrap_err();
    assert!(matches!(error, Error::LimitPassed { .. }), "{error}");
    fixture.assert_empty();
    pull(&fixture, &registry).unwrap();
}
