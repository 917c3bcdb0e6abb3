package pages

import "context"

// Daemon fills in the memory of the restored processes of one container.
type Daemon struct{}

// Start makes a daemon that listens as lazy-pages.socket in workDir, the work
// folder of CRIU's restore, when it returns. The path may be of any length. When
// ctx ends the daemon ends as after an error.
func Start(ctx context.Context, workDir string, source Source, options Options) (*Daemon, error) {
	panic("not yet")
}

// Resume goes on for a daemon that has died after its restore was complete. The
// source must be as the former one's. After an error the descriptors of kept are
// still the caller's, who must kill the container before they are closed.
func Resume(ctx context.Context, kept Kept, source Source, options Options) (*Daemon, error) {
	panic("not yet")
}

// Wait returns when the daemon has ended: nil when every page is filled in and
// the userfaultfds are closed.
//
// After an error pages may be missing and the userfaultfds are still open, so
// that processes wait for them. The caller must first kill the container and
// then call Stop: closed while a process lives, its missing pages turn into zeros.
func (d *Daemon) Wait() error { panic("not yet") }

// Stop ends the daemon if it has not ended yet, and closes everything. It is for
// a restore that did not take place, and for a container that was killed.
func (d *Daemon) Stop() { panic("not yet") }

// Leave ends the daemon without closing anything that its keeper holds, for an
// orderly end of this process: another daemon goes on from there. It is an error
// if the keeper does not hold everything; the daemon then goes on.
func (d *Daemon) Leave() error { panic("not yet") }

// Stats is what the daemon has done so far.
func (d *Daemon) Stats() Stats { panic("not yet") }
