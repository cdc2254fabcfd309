// The storage of transforms: plane p is a matrix that holds value p of the transform of every tile.

inline int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
inline int64_t round_up(int64_t value, int64_t multiple) { return divided_up(value, multiple) * multiple; }

// The distance between planes, in floats. It must not be a power of two, because a tile writes to all planes: its
// values would all go to the same set of the cache.
inline int64_t plane_size(int64_t rows, int64_t columns) { return round_up(rows * columns, 32) + 16; }
