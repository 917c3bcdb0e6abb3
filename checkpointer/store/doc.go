// Package store keeps checkpoints on the disk of one node: encrypted,
// deduplicated against the pod's previous generation, and never changed once
// written.
//
// Each pod has one folder:
//
//	<dir>/<namespace>/<podUID>/segments/<id>.seg      chunks that one generation added
//	<dir>/<namespace>/<podUID>/manifests/<number>.man one generation: its files, its memory, and where each chunk is
//	<dir>/<namespace>/<podUID>/latest                 the highest number ever used, in decimal
//
// A generation exists from the moment its manifest is in place. Everything that
// the manifest refers to is on stable storage before that, and is removed only
// after the last manifest that refers to it: whatever is interrupted, and
// wherever, what was restorable before is restorable after.
//
// The memory of processes is kept by addresses: each chunk has pages of one 64 KiB
// window, and of a window that changed in part only the changed pages are new. The
// others stay where an older generation put them, until that segment is worn
// (compact.go). A Reader reads a generation piece by piece, here or from elsewhere.
//
// Files are copied to other nodes as they are (see Import and Files): a holder
// that lacks the namespace's key cannot read them, and one that has it accepts
// no manifest whose segments it does not hold.
package store
