package crl

import (
	"fmt"
	"slices"
)

// Setting is one setting of a storage, or of a mount, and a value for it.
type Setting struct {
	Name  string // limits.kv_max_value_size, limits.txn_max_req_len, max_entry_size, max_crl_entries
	Value int64
}

// Raise is what would let a list of a given size fit.
type Raise struct {
	// Ways are alternatives. The settings of one have to be made together, and
	// none of their values can be lower by one.
	Ways [][]Setting
	// Words say the same to a person, with where each setting is made and what
	// puts it in force, or why there is no way. Empty when nothing has to be
	// raised, or when the limit is not known.
	Words string
}

// Raise is what has to be set so that a list of so many bytes of DER fits. Its
// entries are taken to be Vault's own where max_crl_entries counts them.
func (l Limit) Raise(bytes int64) Raise {
	bytes = min(bytes, maxSetting)
	r := l.Storage.raise(bytes, l.storageOnly())
	if needed := (bytes - listBytes + entryBytes - 1) / entryBytes; l.MaxEntries > 0 && needed > l.MaxEntries {
		r = r.and(Setting{"max_crl_entries", needed})
	}
	return r
}

// storageOnly is what the storage accepts, whatever max_crl_entries says; 0
// when it accepts everything.
func (l Limit) storageOnly() int64 {
	if l.MaxEntries > 0 {
		return l.storageBytes
	}
	return l.MaxBytes
}

// and adds the mount's ceiling to every way. Where the storage cannot be
// raised, it would not help.
func (r Raise) and(entries Setting) Raise {
	words := fmt.Sprintf("set max_crl_entries to %d on the mount (config/crl)", entries.Value)
	if r.Words == "" {
		return Raise{Ways: [][]Setting{{entries}}, Words: words}
	}
	if len(r.Ways) == 0 {
		return r
	}
	for i, way := range r.Ways {
		r.Ways[i] = append(slices.Clone(way), entries)
	}
	r.Words += "; and " + words
	return r
}

func (s Storage) raise(bytes, accepted int64) Raise {
	if accepted == 0 || bytes <= accepted {
		return Raise{}
	}
	switch s.Backend {
	case "consul":
		return s.raiseConsul(bytes + barrierBytes)
	case "raft":
		size := raftEntryBytes(int64(s.KeyBytes), bytes+barrierBytes)
		return Raise{
			Ways:  [][]Setting{{{"max_entry_size", size}}},
			Words: fmt.Sprintf("set max_entry_size to %d in the storage \"raft\" stanza of every Vault server and restart them: a reload does not apply it", size),
		}
	case "dynamodb":
		return Raise{Words: "no setting helps: an item of DynamoDB is at most 400 KiB"}
	case "azure":
		return Raise{Words: "no setting helps: Vault refuses values of 4 MiB for this storage"}
	}
	return Raise{}
}

// raiseConsul finds what lets a value of so many bytes pass. kv_max_value_size
// alone would do in every case, since a request may be as large; but Consul
// takes it for every client's values too.
func (s Storage) raiseConsul(value int64) Raise {
	const where = " on the Consul agent that Vault talks to"
	kv, request := s.consulSettings()
	kvSetting := Setting{"limits.kv_max_value_size", value}
	onlyKV := Raise{
		Ways:  [][]Setting{{kvSetting}},
		Words: fmt.Sprintf("set %s to %d%s, and restart it", kvSetting.Name, value, where),
	}
	if transactions, err := writesTransactions(s.VaultVersion); err != nil {
		return Raise{} // its limit is not known either
	} else if !transactions {
		return onlyKV
	}
	body := s.consulFrame() + (value+2)/3*4
	txn := Setting{"limits.txn_max_req_len", body}
	alone := Setting{kvSetting.Name, body}
	switch {
	case request >= body:
		return onlyKV
	case kv >= value:
		return Raise{
			Ways: [][]Setting{{txn}, {alone}},
			Words: fmt.Sprintf("set %s to %d%s (or %s to the same), and restart it",
				txn.Name, body, where, alone.Name),
		}
	}
	return Raise{
		Ways: [][]Setting{{kvSetting, txn}, {alone}},
		Words: fmt.Sprintf("set %s to %d and %s to %d%s (or %s alone to %d), and restart it",
			kvSetting.Name, value, txn.Name, body, where, alone.Name, body),
	}
}
