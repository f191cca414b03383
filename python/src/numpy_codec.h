// NumPy arrays as the items of a call, and NumPy scalars as short values: columns of a page (runtime/page.h) without a
// pickle per item. What iterating an array gives is what a slot gets: scalars of a 1-D array, rows of others.
//
// All functions want the GIL. NumPy is never imported for something that cannot be NumPy's.
#pragma once

#include <Python.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "runtime/page.h"
#include "runtime/strip.h"

namespace betterbox {

/// numpy.ndarray if NumPy has been imported, else null. Borrowed.
PyTypeObject* ndarray_type();

/// Gives the items of an array as columns of at most about kPageBytes, copied now. Result: false (and nothing given,
/// no Python error) if it must travel item by item: not exactly an ndarray, of objects, structures, dates or text,
/// without a length, of rows without bytes or large ones, or in the other byte order.
bool array_columns(PyObject* array, const std::function<void(Frame page, std::uint64_t count)>& give);

/// A new ndarray with all values of a column of kScalars or kArrays. Null: a Python error is set.
PyObject* column_array(const PageView& column);

/// What iterating that array gives at `i`; a row is a copy of its own.
PyObject* array_item(PyObject* array, std::uint64_t i, ColumnType type);

/// The object in an item of tag kScalar.
PyObject* decode_scalar(ItemBytes item);

/// The word for a NumPy number of at most 8 bytes. Result: false, and no Python error, for all else.
bool scalar_word(PyObject* object, ShortValue& value);

}  // namespace betterbox
