use super::*;

fn home() -> (tempfile::TempDir, Home) {
    let temporary = tempfile::tempdir().unwrap();
    let home = Home::open(temporary.path()).unwrap();
    (temporary, home)
}

fn make(home: &Home, name: Option<&str>, auto_remove: bool) -> Result<(Record, Lock)> {
    let spec = InstanceSpec {
        name: name.map(str::to_owned),
        auto_remove,
        ..InstanceSpec::default()
    };
    create(home, &spec, "sha256:0", &["true".into()])
}

/// As a supervisor does at the end.
fn finish(home: &Home, (record, lock): (Record, Lock), code: i32) {
    let state = State {
        status: Status::Exited,
        exit_code: code,
        ..State::default()
    };
    write_state(home, &record.id, &state).unwrap();
    lock.release().unwrap();
}

/// As a supervisor does when the command runs.
fn runs(home: &Home, record: &Record) {
    let state = State {
        status: Status::Running,
        ..State::default()
    };
    write_state(home, &record.id, &state).unwrap();
}

fn leftovers(home: &Home) -> Vec<PathBuf> {
    ["instances", "names", "active", "trash"]
        .iter()
        .flat_map(|folder| {
            fs::read_dir(home.root().join(folder))
                .unwrap()
                .flatten()
                .map(|entry| entry.path())
        })
        .collect()
}

#[test]
fn an_instance_tells_how_it_ended_until_it_is_removed() {
    let (_temporary, home) = home();
    let made = make(&home, Some("kept"), false).unwrap();
    runs(&home, &made.0);
    assert!(list(&home).unwrap()[0].is_running());
    assert!(matches!(
        remove(&home, "kept", false, false),
        Err(Error::RemoveRunning(_))
    ));
    assert!(matches!(
        Lock::take(&home, &made.0.id),
        Err(Error::Running(_))
    ));
    let id = made.0.id.clone();
    finish(&home, made, 7);
    let listed = list(&home).unwrap();
    assert!(!listed[0].is_running());
    assert_eq!(listed[0].state.exit_code, 7);
    remove(&home, &id[..6], false, false).unwrap();
    assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
    assert!(matches!(
        remove(&home, "kept", true, false),
        Err(Error::NoSuchInstance(_))
    ));
}

#[test]
fn a_taken_name_is_refused_with_its_holder_and_free_again_afterwards() {
    let (_temporary, home) = home();
    let first = make(&home, Some("one"), false).unwrap();
    let error = make(&home, Some("one"), false).unwrap_err();
    assert!(error.to_string().contains(first.0.short_id()), "{error}");
    first.1.release().unwrap();
    remove(&home, "one", false, false).unwrap();
    let second = make(&home, Some("one"), false).unwrap();
    second.1.release().unwrap();
    remove(&home, "one", false, false).unwrap();
    assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
}

#[test]
fn an_instance_that_was_made_and_not_started_is_created() {
    let (_temporary, home) = home();
    make(&home, Some("fresh"), false)
        .unwrap()
        .1
        .release()
        .unwrap();
    assert_eq!(look(&home, "fresh").unwrap().state.status, Status::Created);
}

#[test]
fn what_a_killed_owner_leaves_is_swept() {
    let (_temporary, home) = home();
    // Dropping without release lets go of the lock, as a death does.
    drop(make(&home, Some("gone"), true).unwrap());
    let (record, lock) = make(&home, Some("stays"), false).unwrap();
    runs(&home, &record);
    drop(lock);
    let alive = make(&home, Some("alive"), true).unwrap();
    runs(&home, &alive.0);
    assert_eq!(sweep(&home).unwrap(), 2);
    let listed = list(&home).unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|item| (item.record.name.as_str(), item.is_running()))
        .collect();
    assert_eq!(names, [("alive", true), ("stays", false)]);
    assert_eq!(listed[1].state.exit_code, 137);
    assert!(listed[1].state.error.is_some());
    alive.1.release().unwrap();
}

#[test]
fn an_instance_cut_off_before_its_record_is_swept_and_its_name_usable() {
    let (_temporary, home) = home();
    let (record, lock) = make(&home, Some("half"), true).unwrap();
    fs::remove_file(home.instance(&record.id).join("instance.json")).unwrap();
    drop(lock);
    sweep(&home).unwrap();
    assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
    make(&home, Some("half"), true)
        .unwrap()
        .1
        .release()
        .unwrap();
}

#[test]
fn a_damaged_record_hides_nothing_else_and_can_be_removed() {
    let (_temporary, home) = home();
    let (bad, lock) = make(&home, Some("bad"), false).unwrap();
    fs::write(home.instance(&bad.id).join("instance.json"), b"{").unwrap();
    drop(lock);
    let good = make(&home, Some("good"), false).unwrap();
    finish(&home, good, 0);
    assert_eq!(list(&home).unwrap().len(), 1);
    assert!(matches!(
        look(&home, &bad.id),
        Err(Error::DamagedState { .. })
    ));
    remove(&home, &bad.id, true, false).unwrap();
    remove(&home, "good", false, false).unwrap();
    assert_eq!(leftovers(&home), Vec::<PathBuf>::new());
}

#[test]
fn a_new_name_takes_the_place_of_the_old_one() {
    let (_temporary, home) = home();
    for name in ["one", "two"] {
        make(&home, Some(name), false).unwrap().1.release().unwrap();
    }
    assert!(matches!(
        rename(&home, "one", "two"),
        Err(Error::NameTaken { .. })
    ));
    assert!(matches!(
        rename(&home, "one", "no/name"),
        Err(Error::InvalidName(_))
    ));
    rename(&home, "one", "three").unwrap();
    assert_eq!(look(&home, "three").unwrap().record.name, "three");
    assert!(matches!(find(&home, "one"), Err(Error::NoSuchInstance(_))));
}

#[test]
fn names_that_lead_out_of_the_state_directory_find_nothing() {
    let (_temporary, home) = home();
    for name in ["../x", "..", "", "a/b", "/", "."] {
        assert!(
            matches!(
                remove(&home, name, true, false),
                Err(Error::NoSuchInstance(_))
            ),
            "{name:?}"
        );
    }
}
