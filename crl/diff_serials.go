package crl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// serialsMemory is how many octets of serial numbers a Serials holds before it
	// writes them out: 112,000 of Vault's, so that a list within its default
	// max_crl_entries of 100,000 takes no scratch space.
	serialsMemory = 9 << 18
	maxRuns       = 128 // that are merged at a time
	runBuffer     = 16 << 10
)

// Scratch is room outside of memory: an unlinked temporary file, for instance.
type Scratch interface {
	io.Writer // appends
	io.ReaderAt
}

// Serials is the serial numbers of one list, gathered while it is scanned, in
// memory that does not grow with the list: up to 2.25 MiB of them, and beyond
// that they are in scratch space, as sorted runs. In the order of Vault's own
// lists, or nearly so, that takes one sequential write; in any other order, an
// external merge sort.
type Serials struct {
	open    func() (Scratch, error)
	memory  int
	maxRuns int

	chunk   []byte   // records: the length as a varint, the octets
	spare   []byte   // room to put them in order in
	starts  []uint32 // where in chunk they begin
	sorted  bool     // they are in order
	scratch Scratch
	size    int64  // of what was written
	runs    []run  // there
	last    []byte // serial of the last run
}

// run is records in order, from one offset of the scratch space to another.
type run struct{ from, to int64 }

// NewSerials makes an empty set. open makes the scratch space, at most once,
// when it is needed.
func NewSerials(open func() (Scratch, error)) *Serials {
	return &Serials{open: open, memory: serialsMemory, maxRuns: maxRuns, sorted: true}
}

// Add takes an entry. It is what Options.Each wants. Its errors are those of the
// scratch space.
func (s *Serials) Add(e Entry) error {
	if len(s.chunk)+binary.MaxVarintLen32+len(e.Serial) > s.memory && len(s.starts) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if n := len(s.starts); n > 0 && s.sorted {
		s.sorted = compareSerials(record(s.chunk[s.starts[n-1]:]), e.Serial) <= 0
	}
	s.starts = append(s.starts, uint32(len(s.chunk)))
	if need := binary.MaxVarintLen32 + len(e.Serial); len(s.chunk)+need > cap(s.chunk) {
		s.chunk = slices.Grow(s.chunk, max(need, min(cap(s.chunk), s.memory-cap(s.chunk))))
	}
	s.chunk = binary.AppendUvarint(s.chunk, uint64(len(e.Serial)))
	s.chunk = append(s.chunk, e.Serial...)
	return nil
}

// record is the serial number at the beginning of b.
func record(b []byte) []byte {
	n, head := binary.Uvarint(b)
	return b[head : head+int(n)]
}

// order sorts what is in memory.
func (s *Serials) order() {
	if s.sorted {
		return
	}
	slices.SortFunc(s.starts, func(i, j uint32) int {
		return compareSerials(record(s.chunk[i:]), record(s.chunk[j:]))
	})
	ordered := slices.Grow(s.spare[:0], len(s.chunk))
	for i, start := range s.starts {
		serial := record(s.chunk[start:])
		s.starts[i] = uint32(len(ordered))
		ordered = append(binary.AppendUvarint(ordered, uint64(len(serial))), serial...)
	}
	s.chunk, s.spare, s.sorted = ordered, s.chunk, true
}

// spill writes what is in memory to the scratch space, as a run of its own or
// as the continuation of the last one.
func (s *Serials) spill() error {
	if s.scratch == nil {
		var err error
		if s.scratch, err = s.open(); err != nil {
			return err
		}
	}
	if len(s.runs) >= s.maxRuns {
		if err := s.mergeRuns(); err != nil {
			return err
		}
	}
	s.order()
	from := s.size
	if err := s.write(s.chunk); err != nil {
		return err
	}
	if n := len(s.runs); n > 0 && compareSerials(s.last, record(s.chunk)) <= 0 {
		s.runs[n-1].to = s.size
	} else {
		s.runs = append(s.runs, run{from, s.size})
	}
	s.last = append(s.last[:0], record(s.chunk[s.starts[len(s.starts)-1]:])...)
	s.chunk, s.starts = s.chunk[:0], s.starts[:0]
	return nil
}

func (s *Serials) write(b []byte) error {
	n, err := s.scratch.Write(b)
	s.size += int64(n)
	if err != nil {
		return fmt.Errorf("writing serial numbers to scratch space: %w", err)
	}
	return nil
}

// mergeRuns makes one run of all that are in the scratch space.
func (s *Serials) mergeRuns() error {
	from := s.size
	m := newMerger()
	for _, r := range s.runs {
		if err := m.add(&runReader{src: s.scratch, at: r.from, end: r.to}); err != nil {
			return err
		}
	}
	var out []byte
	for {
		if err := m.next(); err != nil {
			return err
		}
		if m.serial == nil {
			break
		}
		out = append(binary.AppendUvarint(out, uint64(len(m.serial))), m.serial...)
		if len(out) >= runBuffer {
			if err := s.write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	s.last = append(s.last[:0], m.previous...)
	s.runs = append(s.runs[:0], run{from, s.size + int64(len(out))})
	return s.write(out)
}

// read begins to read the set in order. Once a part of it is in the scratch
// space, all of it goes there.
func (s *Serials) read() (*merger, error) {
	if s.scratch != nil && len(s.starts) > 0 {
		if err := s.spill(); err != nil {
			return nil, err
		}
		s.chunk, s.spare, s.starts = nil, nil, nil
	}
	s.order()
	m := newMerger()
	for _, r := range s.runs {
		if err := m.add(&runReader{src: s.scratch, at: r.from, end: r.to}); err != nil {
			return nil, err
		}
	}
	if err := m.add(&runReader{unread: s.chunk}); err != nil {
		return nil, err
	}
	return m, m.next()
}

// runReader reads the records of a run.
type runReader struct {
	src     io.ReaderAt
	at, end int64 // what has not been read from src
	buf     []byte
	unread  []byte
	serial  []byte // the record read last, nil at the end; valid until the next
}

func (r *runReader) next() error {
	for {
		n, head := binary.Uvarint(r.unread)
		switch whole := head > 0 && uint64(len(r.unread)-head) >= n; {
		case whole && n > 0:
			r.serial, r.unread = r.unread[head:head+int(n)], r.unread[head+int(n):]
			return nil
		case r.at == r.end && len(r.unread) == 0:
			r.serial = nil
			return nil
		case whole || r.at == r.end:
			return errors.New("reading serial numbers from scratch space: not what was written")
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
}

// fill reads on, into a larger buffer where one record fills it.
func (r *runReader) fill() error {
	have := len(r.unread)
	if have == len(r.buf) {
		r.buf = append(make([]byte, 0, max(runBuffer, 2*have)), r.unread...)
		r.buf = r.buf[:cap(r.buf)]
	} else {
		copy(r.buf, r.unread)
	}
	n, err := r.src.ReadAt(r.buf[have:have+int(min(int64(len(r.buf)-have), r.end-r.at))], r.at)
	if n == 0 {
		return fmt.Errorf("reading serial numbers from scratch space: %w", err)
	}
	r.at += int64(n)
	r.unread = r.buf[:have+n]
	return nil
}

// merger reads several runs in order, each serial number once. Its runs are a
// heap: the one with the least serial number comes first, each is before those
// at twice its index plus one and two.
type merger struct {
	heap     []*runReader
	serial   []byte // read last, nil before the first and after the last
	previous []byte // the room for it
}

func newMerger() *merger { return &merger{previous: make([]byte, 0, 32)} }

// add takes a run that may be empty.
func (m *merger) add(r *runReader) error {
	if err := r.next(); err != nil || r.serial == nil {
		return err
	}
	m.heap = append(m.heap, r)
	for i := len(m.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if compareSerials(m.heap[parent].serial, m.heap[i].serial) <= 0 {
			break
		}
		m.heap[parent], m.heap[i] = m.heap[i], m.heap[parent]
		i = parent
	}
	return nil
}

// next reads the next serial number.
func (m *merger) next() error {
	for len(m.heap) > 0 {
		first := m.heap[0]
		again := m.serial != nil && bytes.Equal(first.serial, m.serial)
		if !again {
			m.previous = append(m.previous[:0], first.serial...)
			m.serial = m.previous
		}
		if err := first.next(); err != nil {
			return err
		}
		m.sink()
		if !again {
			return nil
		}
	}
	m.serial = nil
	return nil
}

// sink puts the first run, which was read on, in its place.
func (m *merger) sink() {
	if m.heap[0].serial == nil {
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap = m.heap[:last]
	}
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(m.heap) {
			return
		}
		if child+1 < len(m.heap) && compareSerials(m.heap[child+1].serial, m.heap[child].serial) < 0 {
			child++
		}
		if compareSerials(m.heap[i].serial, m.heap[child].serial) <= 0 {
			return
		}
		m.heap[i], m.heap[child] = m.heap[child], m.heap[i]
		i = child
	}
}
