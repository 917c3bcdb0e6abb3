// Package move decides what is next for a planned move: from what is known of a
// Migration, its pod, its successor and the rest of the cluster follow one step and
// the moment at which to look again. It does nothing itself, and remembers nothing:
// a watcher that takes over decides the same. See docs/adr/0013-planned-moves.md.
package move
