use super::*;

const UP: &str = "@matrix up release=6.12.1-cloud npt=Y";
const END: &str = "@matrix end one exit=3 wall_ms=1500 user_s=0.25 system_s=0.50";

fn after(lines: &[&str]) -> Transcript {
    let mut transcript = Transcript::new();
    for line in lines {
        transcript.handle_line(line).unwrap();
    }
    transcript
}

#[test]
fn a_whole_boot_is_understood() {
    let transcript = after(&[
        "SeaBIOS (version 1.16.2)\r\n",
        UP,
        "@matrix begin one\r\n",
        "| {\"a\": 1}\r",
        "! @matrix end one exit=0",
        "| ",
        END,
        "@matrix begin two",
        "@matrix end two exit=prepare wall_ms=0 user_s=0 system_s=0",
        "@matrix done\r\n",
        "reboot: Power down",
    ]);
    assert_eq!(*transcript.phase(), Phase::Done);
    assert_eq!(transcript.up.unwrap().release, "6.12.1-cloud");
    assert_eq!(transcript.ended.len(), 2);
    assert_eq!(
        transcript.ended[0],
        Ended {
            name: "one".into(),
            exit: Exit::Code(3),
            wall: Duration::from_millis(1500),
            cpu: Duration::from_millis(750),
            stdout: "{\"a\": 1}\n\n".into(),
            stderr: "@matrix end one exit=0\n".into(),
        }
    );
    assert_eq!(transcript.ended[1].exit, Exit::Unprepared);
}

#[test]
fn a_panic_while_booting_leaves_it_booting() {
    let transcript = after(&["Kernel panic - not syncing: VFS: Unable to mount root fs"]);
    assert_eq!(*transcript.phase(), Phase::Booting);
    assert_eq!(transcript.up, None);
}

#[test]
fn a_case_without_its_end_is_still_running_and_keeps_what_it_said() {
    let transcript = after(&[UP, "@matrix begin one", "| half"]);
    assert_eq!(*transcript.phase(), Phase::Running("one".into()));
    assert_eq!(transcript.stdout, "half\n");
    assert!(transcript.ended.is_empty());
}

#[test]
fn output_of_one_case_does_not_leak_into_the_next() {
    let transcript = after(&[UP, "@matrix begin one", "| 1", END, "@matrix begin two"]);
    assert_eq!(transcript.stdout, "");
}

#[test]
fn markers_out_of_order_are_refused() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "@matrix begin one"),
        (&[], "@matrix done"),
        (&[UP], UP),
        (&[UP], END),
        (&[UP, "@matrix begin one"], "@matrix done"),
        (&[UP, "@matrix begin two"], END),
    ];
    for (before, line) in cases {
        let mut transcript = after(before);
        let phase = transcript.phase().clone();
        assert_eq!(
            transcript.handle_line(line),
            Err(ProtocolError::Unexpected {
                phase,
                line: line.into(),
            })
        );
    }
}

#[test]
fn garbage_is_refused_where_it_could_be_mistaken_for_a_result() {
    for line in [
        "[   12.3] BUG: soft lockup",
        "",
        "|no space",
        "{\"outcome\": \"finished\"}",
        "\u{fffd}\u{fffd}",
    ] {
        let mut transcript = after(&[UP, "@matrix begin one"]);
        assert!(transcript.handle_line(line).is_err(), "{line:?}");
    }
    for line in [
        "@matrix ",
        "@matrix ende one exit=0",
        "@matrix end one exit=zero wall_ms=1 user_s=0 system_s=0",
        "@matrix end one wall_ms=1 user_s=0 system_s=0",
        "@matrix end one exit=0 wall_ms=1 user_s=-1 system_s=0",
        "@matrix end one exit=0 wall_ms=1 user_s=0",
    ] {
        let mut transcript = after(&[UP, "@matrix begin one"]);
        assert_eq!(
            transcript.handle_line(line),
            Err(ProtocolError::Unknown(line.into()))
        );
        assert!(transcript.ended.is_empty());
    }
}
