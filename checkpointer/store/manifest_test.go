package store

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// exampleManifest has each kind of entry.
func exampleManifest() *manifest {
	return &manifest{
		key:        crashKey,
		generation: Generation{Number: 3, Epoch: 2, TakenAt: time.Unix(1, 2).UTC(), PodName: "cart-0", Containers: []string{"a", "b"}, Base: 2, Bytes: 10, NewBytes: 5},
		segments:   []segment{{fileID{1}, 1, 200_000}, {fileID{2}, 3, 1 << 40}},
		chunks: []chunk{
			{segment: 0, length: 3 * pageSize, stored: 3*pageSize + sealOverhead, offset: 45, index: 0, written: 1, hash: chunkHash{1}},
			{segment: 0, length: chunkSize, stored: 1000, offset: 45 + 3*pageSize + sealOverhead, index: 1, written: 1, hash: chunkHash{2}},
			{segment: 0, length: pageSize, stored: 77, offset: 150_000, index: 9, written: 1, hash: chunkHash{3}},
			{segment: 1, length: 70, stored: 30, offset: 1 << 39, index: 5, written: 3, hash: chunkHash{7}},
			{segment: 1, length: 2 * pageSize, stored: 300, offset: 1<<39 + 30, index: 6, written: 2, hash: chunkHash{8}},
		},
		files: []stagedFile{
			{path: "a", folder: true},
			{path: "a/empty"},
			{path: "a/file", size: 1<<20 + 2*70, parts: []part{{3, 70}, {hole, 1 << 20}, {3, 70}}},
		},
		processes: []process{
			{container: "a", pid: 1, pages: memory.Set{{Start: 0x1000, End: 0x20000}, {Start: 0x7fff_0000_0000, End: 0x7fff_0001_0000}},
				extents: []extent{{0x1000, 2 * pageSize, 0, pageSize}, {0x3000, pageSize, 2, 0}, {0x10000, chunkSize, 1, 0}, {0x7fff_0000_1000, pageSize, 4, pageSize}}},
			{container: "a", pid: 7, pages: memory.Set{{Start: 0x10000, End: 0x20000}}, extents: []extent{{0x10000, chunkSize, 1, 0}}},
			{container: "b", pid: 1, pages: memory.Set{{Start: 1<<64 - 2*pageSize, End: 1<<64 - pageSize}}},
			{container: "b", pid: 2},
		},
	}
}

func mustEncode(t testing.TB, m *manifest) []byte {
	t.Helper()
	text, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// equalManifests takes an empty list for none.
func equalManifests(a, b *manifest) string {
	return cmp.Diff(a, b, cmp.Exporter(func(reflect.Type) bool { return true }), cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().Type().Kind() == reflect.Slice
	}, cmp.FilterValues(func(a, b any) bool {
		return reflect.ValueOf(a).Len() == 0 && reflect.ValueOf(b).Len() == 0
	}, cmp.Ignore())))
}

func TestManifestRoundTrip(t *testing.T) {
	want := exampleManifest()
	text := mustEncode(t, want)
	got, err := decodeManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := equalManifests(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for n := range text {
		if _, err := decodeManifest(text[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes passed for all", n, len(text))
		}
	}
	if _, err := decodeManifest(append(text, 0)); err == nil {
		t.Error("a byte too many passed")
	}
	body := want.encodeBody()
	for n := range body {
		if err := exampleIntro().decodeBody(body[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes of the body passed for all", n, len(body))
		}
	}
	if err := exampleIntro().decodeBody(append(body, 0)); err == nil {
		t.Error("a byte too many passed in the body")
	}
}

// exampleIntro is what of exampleManifest comes before the body.
func exampleIntro() *manifest {
	m := exampleManifest()
	return &manifest{key: m.key, generation: m.generation, segments: m.segments}
}

func TestManifestsThatMakeNoSense(t *testing.T) {
	for name, change := range map[string]func(m *manifest){
		"a path above":                 func(m *manifest) { m.files[1].path = "../x" },
		"a path through":               func(m *manifest) { m.files[1].path = "a/../../x" },
		"an absolute path":             func(m *manifest) { m.files[1].path = "/etc/passwd" },
		"the folder itself":            func(m *manifest) { m.files[1].path = "." },
		"no path":                      func(m *manifest) { m.files[1].path = "" },
		"a file twice":                 func(m *manifest) { m.files[1].path = "a/file" },
		"a file in no folder":          func(m *manifest) { m.files[1].path = "b/c" },
		"a file in a file":             func(m *manifest) { m.files[2].path = "a/empty/x" },
		"a file before its folder":     func(m *manifest) { m.files[0], m.files[1] = m.files[1], m.files[0] },
		"parts that lack bytes":        func(m *manifest) { m.files[2].size++ },
		"parts with too many bytes":    func(m *manifest) { m.files[2].size-- },
		"a part of no chunk":           func(m *manifest) { m.files[2].parts[0].chunk = 5 },
		"an empty part":                func(m *manifest) { m.files[2].parts = append(m.files[2].parts, part{chunk: hole}) },
		"a chunk behind its segment":   func(m *manifest) { m.chunks[4].offset = 1<<40 - 299 },
		"a chunk too large":            func(m *manifest) { m.chunks[1].length = 2 * chunkSize },
		"a chunk stored as nothing":    func(m *manifest) { m.chunks[1].stored = sealOverhead },
		"an empty chunk":               func(m *manifest) { m.chunks[3].length, m.chunks[3].stored = 0, sealOverhead },
		"content before there was any": func(m *manifest) { m.chunks[0].written = -1 },
		"a segment twice":              func(m *manifest) { m.segments[1].id = m.segments[0].id },
		"a process twice":              func(m *manifest) { m.processes[3].pid = 1 },
		"pages that touch":             func(m *manifest) { m.processes[0].pages[1].Start = 0x20000 },
		"pages of no length":           func(m *manifest) { m.processes[1].pages[0].End = 0x10000 },
		"pages up to the last":         func(m *manifest) { m.processes[2].pages[0].End = 0 },
		"memory of no process":         func(m *manifest) { m.processes[0].extents[3].address = 0x7fff_0001_0000 },
		"memory across a gap":          func(m *manifest) { m.processes[0].extents[2].address = 0x11000 },
		"memory of no chunk":           func(m *manifest) { m.processes[0].extents[3].chunk = 5 },
		"memory of half a page":        func(m *manifest) { m.processes[0].extents[3].chunk = 3 },
		"memory behind its chunk":      func(m *manifest) { m.processes[0].extents[3].offset = 2 * pageSize },
		"memory longer than a chunk":   func(m *manifest) { m.processes[0].extents[0].offset = 2 * pageSize },
		"memory of no length":          func(m *manifest) { m.processes[0].extents[1].length = 0 },
		"memory that overlaps":         func(m *manifest) { m.processes[0].extents[1].address = 0x2000 },
	} {
		t.Run(name, func(t *testing.T) {
			m := exampleManifest()
			change(m)
			if _, err := decodeManifest(mustEncode(t, m)); err == nil {
				t.Error("it passed")
			}
		})
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(mustEncode(f, exampleManifest()))
	f.Add([]byte{2, '{', '}', 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decodeManifest(text)
		if err != nil {
			return
		}
		sameAgain(t, m)
	})
}

// The body by itself, so that a fuzzer need not find its way through zstd.
func FuzzManifestBody(f *testing.F) {
	f.Add(exampleManifest().encodeBody())
	f.Add((&manifest{}).encodeBody())
	f.Fuzz(func(t *testing.T, body []byte) {
		m := exampleIntro()
		if m.decodeBody(body) == nil {
			sameAgain(t, m)
		}
	})
}

// sameAgain writes and reads a manifest, and looks at what the rest of the store
// relies on without looking.
func sameAgain(t *testing.T, m *manifest) {
	t.Helper()
	again, err := decodeManifest(mustEncode(t, m))
	if err != nil {
		t.Fatalf("what was read cannot be read again: %v", err)
	}
	if diff := equalManifests(m, again); diff != "" {
		t.Fatalf("what was read is not what was written (-first +second):\n%s", diff)
	}
	for _, c := range m.chunks {
		if c.length == 0 || c.length > chunkSize || c.stored > c.length+sealOverhead || c.offset+int64(c.stored) > m.segments[c.segment].size {
			t.Fatalf("chunk %+v", c)
		}
	}
	for _, p := range m.processes {
		end := uint64(0)
		for _, e := range p.extents {
			if e.address < end || e.offset+e.length > m.chunks[e.chunk].length || !p.pages.Contains(memory.Span{Start: e.address, End: e.end()}) {
				t.Fatalf("extent %+v", e)
			}
			end = e.end()
		}
	}
	usage(m, m.processes)
}
