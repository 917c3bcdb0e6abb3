// Package pages fills in the memory of processes that CRIU has restored lazily:
// they run already, and each page comes when it is first touched, or before.
//
// # A restore
//
// CRIU connects to a socket in its work folder and hands over a userfaultfd for
// each process. From then on the kernel stops whoever touches a page that is
// missing and tells the daemon. The daemon answers with the content of the chunk
// that has the page, the page first and the rest of the chunk after it, in all
// processes where that belongs, or with zeros where no chunk has it. When all
// processes are restored, drainers go through the source in its order and fill
// in everything else. A process that wants nothing any more is its own: its
// userfaultfd is closed.
//
// # Changes
//
// Processes go on to change their memory meanwhile. What they remove must never
// come back, and what they move must follow. The kernel tells of each change and
// lets the process wait until that is read. So:
//
//   - A space, the memory of one process, has a lock. Content is put into it under
//     the shared lock, after a look whether it is wanted. Changes are read and
//     applied under the exclusive lock: from the moment when the process may go
//     on, nothing is put until the change is known.
//   - Between the moment when a process begins to change its address space and the
//     one when its event is read, the kernel refuses to put pages (EAGAIN). Whoever
//     is refused reads events, and looks again.
//   - ENOENT says that there is nothing at an address. That may be because it was
//     just moved, which only an unread event tells: a page is given up only if at
//     that moment no change is under way. Before CRIU has restored everything, it
//     says that the memory is yet to be registered.
//   - Threads that change the address space at the same time send their events
//     after the fact and in any order. What is moved to where something else
//     still is waits for the event of what made room; see changes.
//   - A fork waits until its event is read, and the kernel refuses to put pages
//     into the parent until then: what the parent wants at that moment, the child
//     wants too.
//
// What this cannot see: where two threads use the same addresses one after the
// other, and one of them is kept from telling for longer than it takes the other
// to change them again, pages may get lost. Then, a child of a process that moved memory in another thread
// at that very moment may be told to want pages where they were before; and a
// child of memory with MADV_WIPEONFORK gets its parent's pages there, if they
// were not filled in when it was forked.
//
// # Death of the daemon
//
// When the last descriptor of a userfaultfd is closed, the kernel lets the
// process go on, and all missing pages are zeros: damage that nobody notices. So
// a keeper in another process holds duplicates. Then the daemon's death makes
// faults wait, and another daemon goes on with Resume. It must know what has
// changed since the restore; that is in a memory file which the keeper holds too:
//
//   - A log has one record for each change that was applied: spaces that came,
//     pages that were removed, unmapped or moved, forks, spaces that were done.
//     Replayed over the source's layout, it leaves what may be wanted.
//   - Pages that were filled in need no record: filling them in again has no
//     effect while they are there (EEXIST), and if the process removed them
//     later, that has one. To save time, there is a bit for each chunk that is
//     wanted nowhere any more.
//   - A word says how many goroutines are between reading changes and having
//     noted them. It is set before anything is read: an event that was read is
//     known to nobody else. If it is not 0 at the daemon's death, an event may be
//     lost; nobody may go on, and the keeper kills the container at once.
//   - Faults that were read and not answered are lost with the daemon, but the
//     threads that wait can be woken, and then fault again.
//
// The log has room for about a million changes. A process that makes more of them
// before everything is filled in is not safe against the daemon's death any more.
package pages
