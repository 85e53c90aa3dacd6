//! What Go 1.24's text/template with docker's functions prints for the same templates.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn value() -> Value {
    json!({
        "Id": "0123456789abcdef",
        "Name": "/quiet_newton",
        "N": 3,
        "F": 2.5,
        "Big": 1e21,
        "Yes": true,
        "No": false,
        "Nil": null,
        "Empty": "",
        "List": ["a", "b", "c"],
        "Map": {"b": 2, "a": 1},
        "State": {"Status": "running", "Pid": 42, "Health": null},
        "Mounts": [{"Type": "bind", "RW": true}, {"Type": "volume", "RW": false}],
    })
}

#[track_caller]
fn gives(template: &str, wanted: &str) {
    match render(template, &value()) {
        Ok(text) => assert_eq!(text, wanted, "{template}"),
        Err(error) => panic!("{template}: {error}"),
    }
}

#[track_caller]
fn fails(template: &str, wanted: &str) {
    let error = render(template, &value()).unwrap_err().to_string();
    assert_eq!(
        error.strip_prefix("template parsing error: template: "),
        Some(wanted),
        "{template}: {error}"
    );
}

#[test]
fn values_print_as_go_prints_them() {
    gives("plain text", "plain text");
    gives("{{.Id}}", "0123456789abcdef");
    gives(
        "{{.N}} {{.F}} {{.Big}} {{.Yes}} {{.Nil}}",
        "3 2.5 1e+21 true <nil>",
    );
    gives("{{.List}}", "[a b c]");
    gives("{{.Map}}", "map[a:1 b:2]");
    gives("{{.Foo}}", "<no value>");
    gives("{{.State.Status}}/{{.State.Pid}}", "running/42");
    gives(
        "{{.Mounts}}",
        "[map[RW:true Type:bind] map[RW:false Type:volume]]",
    );
}

#[test]
fn literals_stand_for_themselves() {
    gives(
        r#"{{"a\tb\u00e9\x41"}}{{`raw\t`}}{{'a'}}"#,
        "a\tbéAraw\\t97",
    );
    gives(
        "{{1_000}} {{0x1f}} {{-7}} {{1.50}} {{1e3}} {{true}}",
        "1000 31 -7 1.5 1000 true",
    );
}

#[test]
fn markers_trim_and_comments_vanish() {
    gives("a {{- .N -}} b", "a3b");
    gives("a{{/* no */}}b {{- /* no */ -}} c", "abc");
    gives("{{ .N }}{{-3}}", "3-3");
}

#[test]
fn variables_live_to_the_end_of_their_block() {
    gives("{{$x := .N}}{{$x}}{{$x = 4}}{{$x}}", "34");
    gives(
        "{{$x := 1}}{{if .Yes}}{{$x = 2}}{{$y := 3}}{{end}}{{$x}}",
        "2",
    );
    gives(
        "{{with $s := .State}}{{$s.Pid}}{{.Status}}{{$.N}}{{end}}",
        "42running3",
    );
    fails(
        "{{if .Yes}}{{$y := 3}}{{end}}{{$y}}",
        ":1: undefined variable \"$y\"",
    );
}

#[test]
fn conditions_follow_gos_truth() {
    gives("{{if .Empty}}a{{else if .No}}b{{else}}c{{end}}", "c");
    gives("{{if .Yes}}a{{else if .No}}b{{else}}c{{end}}", "a");
    gives("{{if and .Yes (not .No) .N}}y{{end}}", "y");
    gives("{{or .Empty .No \"last\"}}", "last");
    gives("{{with .Empty}}x{{else}}none{{end}}", "none");
    gives("{{with .Empty}}x{{else with .N}}{{.}}{{end}}", "3");
}

#[test]
fn ranges_go_over_lists_maps_and_nothing() {
    gives("{{range .List}}<{{.}}>{{end}}", "<a><b><c>");
    gives(
        "{{range $i, $e := .List}}{{if $i}},{{end}}{{$i}}{{$e}}{{end}}",
        "0a,1b,2c",
    );
    gives("{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}", "a=1;b=2;");
    gives("{{range $e := .Mounts}}{{$e.Type}} {{end}}", "bind volume ");
    gives("{{range .Nil}}x{{else}}none{{end}}", "none");
    gives(
        "{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}",
        "ac",
    );
    gives(
        "{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
        "a",
    );
    fails(
        "{{range .Name}}{{end}}",
        ":1:8: executing \"\" at <.Name>: range can't iterate over /quiet_newton",
    );
}

#[test]
fn dockers_functions_work() {
    gives("{{json .Map}}", r#"{"a":1,"b":2}"#);
    gives(
        "{{json .Name}} {{.Nil | json}} {{json .Foo}}",
        "\"/quiet_newton\" null null",
    );
    gives("{{json \"<&>\"}}", "\"<&>\"");
    gives("{{join .List \", \"}}", "a, b, c");
    gives("{{split \"a:b\" \":\"}}", "[a b]");
    gives(
        "{{lower \"AbC\"}}{{upper \"aBc\"}}{{title \"ab cd\"}}",
        "abcABCAb Cd",
    );
    gives(
        "{{pad .Name 1 2}}|{{pad .Empty 1 2}}|",
        " /quiet_newton  ||",
    );
    gives(
        "{{truncate .Id 12}} {{truncate \"ab\" 5}}",
        "0123456789ab ab",
    );
    gives(
        "{{index .List 1}}{{index .Map \"b\"}}{{(index .Mounts 1).Type}}",
        "b2volume",
    );
    gives("{{len .List}}{{len .Name}}{{len .Map}}", "3132");
    gives("{{slice .Id 0 4}}{{slice .Name 1}}", "0123quiet_newton");
    gives("{{println .N \"a\"}}", "3 a\n");
    gives("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3");
}

#[test]
fn comparisons_follow_gos_kinds() {
    gives(
        "{{eq .N 3}} {{eq .Name \"x\" \"/quiet_newton\"}} {{ne .N 4}}",
        "true true true",
    );
    gives(
        "{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 2 2}}{{lt \"a\" \"b\"}}",
        "truetruefalsetruetrue",
    );
    fails(
        "{{eq .N \"3\"}}",
        ":1:2: executing \"\" at <eq .N \"3\">: error calling eq: incompatible types for comparison",
    );
}

#[test]
fn printf_has_gos_verbs_and_complaints() {
    gives(
        "{{printf \"%s|%5s|%-5s|%.2s\" \"ab\" \"ab\" \"ab\" \"abc\"}}",
        "ab|   ab|ab   |ab",
    );
    gives(
        "{{printf \"%d %5d %-4d| %05d %+d %x %X %o %b %c\" 7 7 7 7 7 255 255 8 5 65}}",
        "7     7 7   | 00007 +7 ff FF 10 101 A",
    );
    gives(
        "{{printf \"%v %q %t %T %%\" .List \"a\\\"b\" true .N}}",
        "[a b c] \"a\\\"b\" true int %",
    );
    gives(
        "{{printf \"%.2f %e %g %8.1f\" 2.5 1234.5 0.00001 2.25}}",
        "2.50 1.234500e+03 1e-05      2.2",
    );
    gives("{{printf \"%d %s\" \"x\" 5}}", "%!d(string=x) %!s(int=5)");
    gives(
        "{{printf \"%d\"}}{{printf \"a\" 1}}{{printf \"%\"}}",
        "%!d(MISSING)a%!(EXTRA int=1)%!(NOVERB)",
    );
    gives(
        "{{printf \"%q %x\" .List \"hi\"}}",
        "[\"a\" \"b\" \"c\"] 6869",
    );
    gives("{{printf \"%*d\" 5 1}}", "    1");
    gives("{{.N | printf \"%s-%d\" \"a\"}}", "a-3");
}

#[test]
fn a_template_that_cannot_be_read_is_refused_with_its_line() {
    fails("{{.Id", ":1: unclosed action");
    fails("{{", ":1: unclosed action");
    fails("\n{{}}", ":2: missing value for command");
    fails("{{if .Yes}}", ":1: unexpected EOF");
    fails("{{end}}", ":1: unexpected {{end}}");
    fails("{{nosuch .Id}}", ":1: function \"nosuch\" not defined");
    fails("{{.Id | }}", ":1: missing value for command");
    fails("{{\"abc}}", ":1: unterminated quoted string");
    fails("{{(.Id}}", ":1: unclosed left paren");
    fails("{{.Id)}}", ":1: unexpected right paren");
    fails("{{if}}a{{end}}", ":1: missing value for if");
    fails("{{break}}", ":1: {{break}} outside {{range}}");
    fails("{{template \"x\"}}", ":1: {{template}} is not supported");
    fails(
        "{{.Id | 3}}",
        ":1: non executable command in pipeline stage 2",
    );
}

#[test]
fn an_evaluation_that_fails_says_where() {
    fails(
        "{{.Name.Foo}}",
        ":1:7: executing \"\" at <.Name.Foo>: can't evaluate field Foo in type string",
    );
    fails(
        "x\n {{index .List 7}}",
        ":2:3: executing \"\" at <index .List 7>: error calling index: index out of range: 7",
    );
    fails(
        "{{.Id 1}}",
        ":1:2: executing \"\" at <.Id>: Id is not a method but has arguments",
    );
    fails(
        "{{len 3}}",
        ":1:2: executing \"\" at <len 3>: error calling len: len of type int",
    );
    fails(
        "{{lower .N}}",
        ":1:2: executing \"\" at <lower .N>: wrong type for value; expected string; got int",
    );
}

#[test]
fn what_is_missing_is_an_error_where_it_is_asked_for() {
    static STATE: Struct =
        Struct::new(&[("Status", Shape::Any), ("Health", Shape::Struct(&HEALTH))]);
    static HEALTH: Struct = Struct::new(&[("Status", Shape::Any)]);
    static ROOT: Struct = Struct::new(&[
        ("State", Shape::Struct(&STATE)),
        ("Caps", Shape::List(&Shape::Any)),
        ("Labels", Shape::Map(&Shape::Any)),
    ]);
    let value = json!({"State": {"Status": "up"}, "Caps": null, "Labels": {"a": "1"}});
    let options = Options {
        missing: Missing::Entry,
        shape: Shape::Struct(&ROOT),
        titles: false,
    };
    let render = |template: &str| Template::parse(template).unwrap().render(&value, options);
    assert_eq!(render("{{.State.Health}}{{.Caps}}").unwrap(), "<nil>[]");
    assert_eq!(render("{{.State}}").unwrap(), "{up <nil>}");
    assert_eq!(
        render("{{.Labels.b}}|{{index .Labels \"b\"}}").unwrap(),
        "<no value>|"
    );
    assert_eq!(
        render("{{.State.Foo}}").unwrap_err().to_string(),
        "template parsing error: template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\""
    );
    assert_eq!(
        render("{{.State.Health.Status}}").unwrap_err().to_string(),
        "template parsing error: template: :1:8: executing \"\" at <.State.Health.Status>: map has no entry for key \"Health\""
    );
}

#[test]
fn nesting_is_bounded() {
    let parentheses = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(render(&parentheses, &value()).is_err());
    let blocks = format!("{}{}", "{{if true}}".repeat(5000), "{{end}}".repeat(5000));
    assert!(render(&blocks, &value()).is_err());
    let chain = format!(
        "{{{{if false}}}}{}{{{{end}}}}",
        "{{else if false}}".repeat(5000)
    );
    assert!(render(&chain, &value()).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,60}") {
        let _ = render(&text, &value());
    }

    #[test]
    fn no_mixture_of_words_makes_it_panic(words in proptest::collection::vec(
        prop_oneof![
            Just("{{"), Just("}}"), Just("{{- "), Just(" -}}"), Just("/*"), Just("*/"), Just(" "), Just("\n"), Just("|"),
            Just("("), Just(")"), Just("."), Just(".List"), Just(".State.Pid"), Just("$x"), Just("$"), Just(":="), Just("="),
            Just(","), Just("range"), Just("if"), Just("else"), Just("end"), Just("with"), Just("break"), Just("continue"),
            Just("index"), Just("slice"), Just("printf"), Just("len"), Just("eq"), Just("join"), Just("truncate"), Just("pad"),
            Just("\"%*.*d%x\""), Just("'é'"), Just("`"), Just("\""), Just("-9"), Just("1e9"), Just("nil"), Just("true"), Just("é"),
        ], 0..24))
    {
        let _ = render(&words.concat(), &value());
    }
}
