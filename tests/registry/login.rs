//! Credentials: where they are kept, what is refused, TLS and proxies.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Station;
use crate::common::Said;
use crate::server::{Options, PASSWORD, Registry, USER};

/// `login` with a password on standard input.
#[track_caller]
fn with_password(station: &Station, host: &str, password: &str) -> Said {
    let mut command = station.command();
    command
        .args(["login", "-u", USER, "--password-stdin", host])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(format!("{password}\n").as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
pub(crate) fn log_in(station: &Station, host: &str) {
    let said = with_password(station, host, PASSWORD);
    assert_eq!(said.ok(), "Login Succeeded");
}

#[test]
fn a_login_is_checked_kept_for_its_owner_and_forgotten() {
    let Some(registry) = Registry::start(&Options {
        password: true,
        ..Options::default()
    }) else {
        return;
    };
    let station = Station::new();
    let host = registry.host();
    let config = station.scratch().join("docker/config.json");
    with_password(&station, &host, "wrong").fails(1, &["does not take the user name and password"]);
    assert!(!config.exists());
    let said = with_password(&station, &host, PASSWORD);
    assert!(said.stderr.contains("stored unencrypted"), "{said:?}");
    assert_eq!(said.ok(), "Login Succeeded");
    assert_eq!(
        fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = station.run(&format!("login {host}"));
    assert!(again.ok().contains("existing credentials"), "{again:?}");
    assert_eq!(
        station.run(&format!("logout {host}")).ok(),
        format!("Removing login credentials for {host}")
    );
    assert_eq!(
        station.run(&format!("logout {host}")).ok(),
        format!("Not logged in to {host}")
    );
    station
        .run(&format!("login {host}"))
        .fails(1, &["non TTY", "--password-stdin"]);
    station
        .run(&format!("login --password-stdin {host}"))
        .fails(1, &["--username"]);
    let both = station.run(&format!("login -u a -p b --password-stdin {host}"));
    assert_ne!(both.code, Some(0), "{both:?}");
}

#[test]
fn credential_helpers_are_asked_told_and_cleared() {
    let Some(registry) = Registry::start(&Options {
        password: true,
        ..Options::default()
    }) else {
        return;
    };
    let station = Station::new();
    let host = registry.host();
    let kept = station.scratch().join("kept");
    let helper = station.scratch().join("docker-credential-plimsolltest");
    fs::write(
        &helper,
        format!(
            "#!/bin/sh\ninput=$(cat)\ncase $1 in\n\
             store) printf '%s' \"$input\" >{0} ;;\n\
             get) if [ -e {0} ]; then cat {0}; else echo credentials not found in native keychain; exit 1; fi ;;\n\
             erase) rm {0} ;;\nesac\n",
            kept.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = station.scratch().join("docker/config.json");
    fs::write(
        &config,
        format!(r#"{{"credHelpers":{{"{host}":"plimsolltest"}}}}"#),
    )
    .unwrap();
    let path = format!(
        "{}:{}",
        station.scratch().display(),
        std::env::var("PATH").unwrap()
    );
    let name = format!("{host}/private:1");
    station.image(&name, "x");
    let run = |words: &[&str]| {
        let mut command = station.command();
        command.env("PATH", &path).args(words);
        crate::common::finish(command)
    };
    run(&["push", &name]).fails(1, &["access denied"]);
    let said = run(&["login", "-u", USER, "-p", PASSWORD, &host]);
    assert_eq!(said.ok(), "Login Succeeded");
    assert!(
        said.stderr.contains("--password-stdin") && !said.stderr.contains("unencrypted"),
        "{said:?}"
    );
    assert!(fs::read_to_string(&kept).unwrap().contains(PASSWORD));
    assert!(!fs::read_to_string(&config).unwrap().contains("auth\""));
    run(&["push", &name]).ok();
    run(&["logout", &host]).ok();
    assert!(!kept.exists());
    run(&["pull", &name]).fails(1, &["access denied"]);
    fs::write(&helper, "#!/bin/sh\necho it is locked\nexit 1\n").unwrap();
    run(&["pull", &name]).fails(1, &["docker-credential-plimsolltest", "it is locked"]);
}

/// A proxy that answers CONNECT by connecting to `to`, whatever it is asked for. Counts.
fn proxy(to: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut first = String::new();
            reader.read_line(&mut first).unwrap();
            let mut line = first.clone();
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            assert!(first.starts_with("CONNECT registry.test:443 "), "{first}");
            counted.fetch_add(1, Ordering::Relaxed);
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from_server, mut to_client) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_server, &mut to_client);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut reader, &mut &server);
            });
        }
    });
    (port, count)
}

#[test]
fn a_registry_with_tls_is_reached_through_a_proxy_and_its_certificate_is_checked() {
    let Some(registry) = Registry::start(&Options {
        password: true,
        tls: true,
    }) else {
        return;
    };
    let station = Station::new();
    let (port, count) = proxy(registry.port());
    let run = |words: &[&str], authority: bool, variables: &[(&str, &str)]| {
        let mut command = station.command();
        command
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{port}"))
            .args(words);
        if authority {
            command.env("SSL_CERT_FILE", registry.certificate());
        }
        command.envs(variables.iter().copied());
        crate::common::finish(command)
    };
    let name = "registry.test/app:1";
    station.image(name, "through");
    let login = ["login", "-u", USER, "-p", PASSWORD, "registry.test"];
    let untrusted = run(&login, false, &[]);
    untrusted.fails(1, &["cannot reach registry.test", "certificate"]);
    run(&login, true, &[]).ok();
    run(&["push", name], true, &[]).ok();
    run(&["rmi", name], true, &[]).ok();
    let said = run(&["run", "--rm", "-q", "--network", "none", name], true, &[]);
    assert_eq!(said.ok(), "through");
    let used = count.load(Ordering::Relaxed);
    assert!(used >= 3, "{used}");
    // Without the proxy there is no such host.
    run(&["pull", name], true, &[("NO_PROXY", ".test")]).fails(1, &["cannot reach registry.test"]);
    assert_eq!(count.load(Ordering::Relaxed), used);
    // On this machine itself any certificate will do, as for docker, and no proxy is asked.
    let local = format!("{}/app:1", registry.host());
    log_in(&station, &registry.host());
    assert_eq!(
        run(
            &["run", "--rm", "-q", "--network", "none", &local],
            false,
            &[]
        )
        .ok(),
        "through"
    );
    assert_eq!(count.load(Ordering::Relaxed), used);
}
