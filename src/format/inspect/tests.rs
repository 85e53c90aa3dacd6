//! The shapes, and the templates that docker's users ask them with.

use serde_json::json;

use super::*;

fn container() -> (Kind, Value) {
    let facts = ContainerFacts {
        id: "0123456789ab".into(),
        created: 1_000_000_000_000_000_000,
        path: "sh".into(),
        args: vec!["-c".into(), "exit 3".into()],
        name: "web".into(),
        image: "busybox".into(),
        env: vec!["A=1".into(), "B=2".into()],
        cmd: Some(vec!["sh".into()]),
        state: StateFacts {
            status: "exited".into(),
            exit_code: 3,
            ..StateFacts::default()
        },
        host: HostFacts {
            memory: 64 << 20,
            cap_add: vec!["NET_ADMIN".into()],
            ..HostFacts::default()
        },
        mounts: vec![MountFacts {
            kind: "volume".into(),
            name: Some("data".into()),
            source: "/var/lib/data".into(),
            destination: "/data".into(),
            writable: true,
            ..MountFacts::default()
        }],
        labels: [("role".to_owned(), "db".to_owned())].into(),
        networks: json!({"bridge": {"IPAddress": "172.17.0.2"}}),
        plimsoll: json!({"Backend": "vm", "Accelerator": "tcg"}),
        ..ContainerFacts::default()
    };
    (Kind::Container, inspect_container(&facts))
}

#[test]
fn the_templates_that_users_know_work() {
    for (format, wanted) in [
        ("{{.Id}} {{.ID}}", "0123456789ab 0123456789ab"),
        ("{{.Name}}", "/web"),
        ("{{.Created}}", "2001-09-09T01:46:40Z"),
        (
            "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}",
            "exited 3 false",
        ),
        ("{{.State.StartedAt}}", "0001-01-01T00:00:00Z"),
        ("{{.Path}} {{.Args}}", "sh [-c exit 3]"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{json .Config.Cmd}} {{.Config.Entrypoint}}", "[\"sh\"] []"),
        (
            "{{.HostConfig.Memory}} {{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}",
            "67108864 [NET_ADMIN] []",
        ),
        ("{{.HostConfig.RestartPolicy.Name}}", "no"),
        (
            "{{.Config.StopSignal}}|{{json .Config.StopSignal}}",
            "|\"\"",
        ),
        (
            "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}",
            "volume data /data",
        ),
        (
            "{{index .Config.Labels \"role\"}}{{index .Config.Labels \"none\"}}",
            "db",
        ),
        ("{{.Config.Volumes}} {{json .Config.Volumes}}", "map[] null"),
        ("{{.NetworkSettings.IPAddress}}", "172.17.0.2"),
        (
            "{{range $n, $e := .NetworkSettings.Networks}}{{$n}}={{$e.IPAddress}}{{end}}",
            "bridge=172.17.0.2",
        ),
        ("{{.State.Health}}", "<nil>"),
        ("{{with .State.Health}}x{{else}}none{{end}}", "none"),
        ("{{.Plimsoll.Backend}}/{{.Plimsoll.Accelerator}}", "vm/tcg"),
        (
            "{{json .HostConfig.RestartPolicy}}",
            r#"{"Name":"no","MaximumRetryCount":0}"#,
        ),
    ] {
        assert_eq!(
            render(&[container()], Some(format)).unwrap(),
            format!("{wanted}\n"),
            "{format}"
        );
    }
}

#[test]
fn a_member_that_is_not_there_is_refused_in_dockers_words() {
    assert_eq!(
        render(&[container()], Some("{{.State.Foo}}"))
            .unwrap_err()
            .to_string(),
        "template parsing error: template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\""
    );
}

#[test]
fn without_a_format_it_is_a_list_in_dockers_order() {
    let text = render(&[container()], None).unwrap();
    assert!(
        text.starts_with("[\n    {\n        \"Id\": \"0123456789ab\",\n        \"Created\": "),
        "{text}"
    );
    assert!(text.ends_with("\n    }\n]\n"), "{text}");
    let parsed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed[0], container().1);
    assert_eq!(render(&[], None).unwrap(), "[]\n");
}

#[test]
fn an_image_has_dockers_members() {
    let facts = ImageFacts {
        id: "sha256:12".into(),
        tags: vec!["a:latest".into()],
        config: json!({
            "architecture": "amd64", "os": "linux", "created": "2001-09-09T01:46:40Z",
            "config": {"Cmd": ["sh"], "Env": ["A=1"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:ab"]},
        }),
        size: 7,
        directories: vec!["/b".into(), "/a".into()],
        ..ImageFacts::default()
    };
    let item = (Kind::Image, inspect_image(&facts));
    for (format, wanted) in [
        (
            "{{.Id}} {{.RepoTags}} {{.RepoDigests}}",
            "sha256:12 [a:latest] []",
        ),
        ("{{.Architecture}}/{{.Os}} {{.Size}}", "amd64/linux 7"),
        (
            "{{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.User}}",
            "[sh] [] ",
        ),
        (
            "{{.RootFS.Layers}} {{.GraphDriver.Data.LowerDir}}",
            "[sha256:ab] /a",
        ),
        ("{{.Config.Labels}}", "map[]"),
    ] {
        assert_eq!(
            render(std::slice::from_ref(&item), Some(format)).unwrap(),
            format!("{wanted}\n")
        );
    }
}

#[test]
fn a_volume_has_dockers_members() {
    let facts = VolumeFacts {
        name: "data".into(),
        created: 1_000_000_000,
        mountpoint: "/v/data/_data".into(),
        ..VolumeFacts::default()
    };
    assert_eq!(
        render(&[(Kind::Volume, inspect_volume(&facts))], None).unwrap(),
        r#"[
    {
        "CreatedAt": "2001-09-09T01:46:40Z",
        "Driver": "local",
        "Labels": null,
        "Mountpoint": "/v/data/_data",
        "Name": "data",
        "Options": null,
        "Scope": "local"
    }
]
"#
    );
}
