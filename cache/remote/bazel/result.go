package bazel

import (
	"encoding/binary"
	"errors"

	"github.com/strake-build/strake/cache/remote"
)

// An ActionResult (remote_execution.proto of the Remote Execution API, version 2) as strake writes it: one output file,
// which is the layer's blob, and in stdout_raw the entry as a document. It is written and read by hand: three messages
// are no reason to link all of protocol buffers.
const (
	resultFiles  = 2 // ActionResult.output_files
	resultStdout = 5 // ActionResult.stdout_raw
	filePath     = 1 // OutputFile.path
	fileDigest   = 2 // OutputFile.digest
	digestHash   = 1 // Digest.hash
	digestSize   = 2 // Digest.size_bytes

	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

func appendBytes(b []byte, field int, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func encodeResult(e remote.Entry) ([]byte, error) {
	doc, err := remote.EncodeEntries([]remote.Held{{Entry: e}})
	if err != nil {
		return nil, err
	}
	digest := appendBytes(nil, digestHash, []byte(e.Blob.Digest.Hex))
	digest = binary.AppendUvarint(digest, digestSize<<3|wireVarint)
	digest = binary.AppendUvarint(digest, uint64(e.Blob.Size))
	file := appendBytes(nil, filePath, []byte("layer"))
	file = appendBytes(file, fileDigest, digest)
	return appendBytes(appendBytes(nil, resultFiles, file), resultStdout, doc), nil
}

var errResult = errors.New("no ActionResult of strake")

// decodeResult reads the entry in an ActionResult. What else is in it does not matter: the entry names its blob itself.
func decodeResult(b []byte) (remote.Entry, error) {
	doc, err := bytesField(b, resultStdout)
	if err != nil {
		return remote.Entry{}, err
	}
	entries, err := remote.DecodeEntries(doc)
	if err != nil {
		return remote.Entry{}, err
	}
	if len(entries) != 1 {
		return remote.Entry{}, errResult
	}
	return entries[0].Entry, nil
}

// bytesField finds the last value of a field, as protocol buffers have it.
func bytesField(b []byte, field uint64) (value []byte, err error) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errResult
		}
		b = b[n:]
		var skip uint64
		switch tag & 7 {
		case wireVarint:
			_, n := binary.Uvarint(b)
			if n <= 0 {
				return nil, errResult
			}
			skip = uint64(n)
		case wireFixed64:
			skip = 8
		case wireFixed32:
			skip = 4
		case wireBytes:
			length, n := binary.Uvarint(b)
			if n <= 0 {
				return nil, errResult
			}
			b, skip = b[n:], length
		default:
			return nil, errResult
		}
		if skip > uint64(len(b)) {
			return nil, errResult
		}
		if tag == field<<3|wireBytes {
			value = b[:skip]
		}
		b = b[skip:]
	}
	if value == nil {
		return nil, errResult
	}
	return value, nil
}
