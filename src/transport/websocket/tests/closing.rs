//! Tests of what a closing WebSocket passes to the access log.

use super::*;

#[test]
fn code_of_the_only_close_frame_is_noted_for_the_access_log() {
    let done = close_frame(1000, b"bye");
    let codes = |goodbye: Option<Goodbye<'_>>, mut input: Vec<u8>, is_observed| {
        let mut world = World {
            is_observed,
            ..World::default()
        };
        let mut socket = WebSocket::new(Envelope::Full, Compression::None);
        let mut out = Vec::new();
        if let Some(goodbye) = goodbye {
            let _flow = socket.handle_goodbye(goodbye, &mut out, &mut world.context());
        }
        let flow = socket.handle_bytes(&mut input, &mut out, &mut world.context());
        assert!(matches!(flow, Flow::Ended(_)));
        world.effects
    };
    let noted = |code| vec![Effect::NoteClose(code)];
    assert_eq!(codes(None, done.clone(), true), noted(1000));
    assert_eq!(codes(None, frame(0x88, b""), true), []);
    assert_eq!(codes(None, frame(0xf1, b"x"), true), noted(1002));
    let overflow = Some(Goodbye::Overflow);
    assert_eq!(codes(overflow, done.clone(), true), noted(4100));
    let shutdown = Some(Goodbye::Shutdown);
    assert_eq!(codes(shutdown, done.clone(), true), noted(1012));
    assert_eq!(codes(shutdown, done, false), []);
}
