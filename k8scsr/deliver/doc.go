// Package deliver does one pod's own work on one certificate: it takes the pair
// from its Secret, publishes it as files in one atomic step, makes the server
// load them, and proves by a TLS handshake that the server presents the new
// leaf.
//
// What is promised:
//   - A reader that opens both files below one resolved directory sees a
//     matching pair, always, and also after a crash at any point.
//   - No process is signalled unless it is the one that owns the listener, by
//     its executable and start time, over a handle that survives PID reuse.
//     Doubt means that nothing is signalled.
//   - "Served" is never assumed: only the fingerprint seen in a handshake counts.
package deliver
