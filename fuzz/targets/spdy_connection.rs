//! A whole SPDY connection, on its own or in the messages of a WebSocket: whatever a client sends, the connection ends
//! when the client does, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((carrier, input)) = data.split_first() else { return };
    berth_stream::fuzzing::serve_ports(input, carrier & 1 == 1);
});
