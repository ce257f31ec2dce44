// A stand-in for an Ascend NPU. Tensors of the device "npu" live in host memory and CPU kernels
// compute them, but placement, dtypes, memory and device state are as strict as on the real one.
//
// It registers torch's PrivateUse1 key: an allocator, a device guard, a boxed kernel for every
// operator that torch_npu has, and a process group "hccl" around gloo. The Python package
// `torch_npu` beside it does the rest.

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

namespace {
using at::IValue;
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using Tensors = std::vector<Tensor>;

constexpr auto NPU = DeviceType::PrivateUse1;
constexpr auto KEY = c10::DispatchKey::PrivateUse1;
constexpr int MAX_DEVICES = 16;
constexpr int64_t MAX_DIMS = 8;  // of a tensor in CANN's operators

// ------------------------------------------------------------------------------------- settings

int64_t setting(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoll(text) : fallback;
}

const int num_devices = std::min<int64_t>(setting("NPU_STAND_IN_DEVICES", 8), MAX_DEVICES);
const int64_t capacity_bytes = setting("NPU_STAND_IN_CAPACITY_MIB", 4096) << 20;

// --------------------------------------------------------------------------------------- counts

std::mutex counts_mutex;
std::map<std::string, int64_t> counts;

void count(const std::string& what) {
  std::lock_guard<std::mutex> lock(counts_mutex);
  ++counts[what];
}

// A refusal is counted as well as raised: an `except` may hide the error.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  count("refused");
  TORCH_CHECK(false, parts...);
  std::abort();
}

// ------------------------------------------------------------------------------ process, thread

std::atomic<pid_t> owner{0};           // the process that has begun to use the devices
thread_local DeviceIndex current = 0;  // as in ACL: every thread begins at device 0

bool is_begun() { return owner == getpid(); }

// ACL's state does not survive a fork.
void begin() {
  pid_t expected = 0;
  if (!owner.compare_exchange_strong(expected, getpid()) && expected != getpid())
    refuse("Cannot re-initialize NPU in forked subprocess");
}

void check_index(DeviceIndex index) {
  if (index < 0 || index >= num_devices)
    refuse("Invalid NPU device index ", int(index), "; there are ", num_devices);
}

// A rank has one device. Touching another one would make a context and take memory there.
void check_current(Device device) {
  check_index(device.index());
  if (device.index() != current)
    refuse("foreign device: ", device.str(), " is used where npu:", int(current), " is current");
}

// --------------------------------------------------------------------------------------- memory

struct Memory {
  std::atomic<int64_t> allocated{0};
  std::atomic<int64_t> peak{0};
  std::atomic<int64_t> reserved{0};  // a caching allocator keeps what was freed until told to let go
  std::atomic<int64_t> max_reserved{0};
};
Memory memories[MAX_DEVICES];
std::atomic<int64_t> num_until_failure{0};  // of allocations; 0: none is made to fail

void raise_to(std::atomic<int64_t>& largest, int64_t value) {
  int64_t seen = largest;
  while (value > seen && !largest.compare_exchange_weak(seen, value)) {
  }
}

bool is_made_to_fail() { return num_until_failure > 0 && --num_until_failure == 0; }

void take_memory(DeviceIndex index, int64_t num_bytes) {
  Memory& memory = memories[index];
  int64_t now = memory.allocated += num_bytes;
  if (num_bytes > 0 && (now > capacity_bytes || is_made_to_fail())) {
    memory.allocated -= num_bytes;
    count("out of memory");
    TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", num_bytes,
                     " bytes (NPU ", int(index), "; ", capacity_bytes, " bytes total capacity; ",
                     now - num_bytes, " bytes already allocated)");
  }
  raise_to(memory.peak, now);
  raise_to(memory.reserved, now);
  raise_to(memory.max_reserved, memory.reserved);
}

// Memory of a device: its own, or what a CPU kernel has allocated for its result.
struct Block {
  void* data;
  int64_t num_bytes;
  DeviceIndex index;
  c10::Storage made_on_cpu;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  memories[block->index].allocated -= block->num_bytes;
  if (!block->made_on_cpu) std::free(block->data);
  delete block;
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t num_bytes) override {
    begin();
    Device device(NPU, current);
    if (num_bytes == 0) return {nullptr, nullptr, &free_block, device};
    take_memory(current, num_bytes);
    void* data = std::aligned_alloc(512, (num_bytes + 511) / 512 * 512);
    TORCH_CHECK(data, "the host has no memory left");
    // NaN in every floating dtype: a result that depends on fresh memory shows.
    std::memset(data, 0xFF, num_bytes);
    return {data, new Block{data, int64_t(num_bytes), current, {}}, &free_block, device};
  }
  void copy_data(void* to, const void* from, size_t num_bytes) const override {
    std::memcpy(to, from, num_bytes);
  }
} allocator;
REGISTER_ALLOCATOR(NPU, &allocator)

c10::DataPtr adopt(const c10::Storage& made_on_cpu, DeviceIndex index) {
  int64_t num_bytes = made_on_cpu.nbytes();
  take_memory(index, num_bytes);
  void* data = made_on_cpu.mutable_data();
  return {data, new Block{data, num_bytes, index, made_on_cpu}, &free_block, Device(NPU, index)};
}

// -------------------------------------------------------------------------------------- devices

// There is one stream, and work is done when its call returns: waiting is only counted.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return NPU; }
  Device exchangeDevice(Device to) const override {
    Device from(NPU, current);
    if (to.index() != current) setDevice(to);
    return from;
  }
  Device getDevice() const override { return Device(NPU, current); }
  void setDevice(Device to) const override {
    check_index(to.index());
    begin();
    current = to.index();
  }
  void uncheckedSetDevice(Device to) const noexcept override { current = to.index(); }
  c10::Stream getStream(Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(Device device, bool) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return num_devices; }
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { count("synchronize"); }
  void synchronizeEvent(void*) const override { count("synchronize"); }
  void synchronizeDevice(const DeviceIndex) const override { count("synchronize"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  // FSDP frees and refills the memory of its gathered weights this way.
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t num_bytes) const override {
    c10::DeviceGuard guard(storage.device());
    auto data = allocator.allocate(num_bytes);
    size_t num_kept = std::min(num_bytes, storage.nbytes());
    if (num_kept) std::memcpy(data.get(), storage.data(), num_kept);
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(num_bytes);
  }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return num_devices > 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return is_begun(); }
  void init() const override { begin(); }
  DeviceIndex deviceCount() const override { return num_devices; }
  void setCurrentDevice(DeviceIndex index) const override { Guard().setDevice(Device(NPU, index)); }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return Guard().exchangeDevice(Device(NPU, index)).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(DeviceType::CPU);
  }
  Device getDeviceFromPtr(void*) const override { return Device(NPU, current); }
} hooks;

const bool is_hooked = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

// ------------------------------------------------------------------- a tensor as the CPU sees it

bool is_npu(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == NPU; }

// Lends the memory, without a copy; the device's storage lives as long as the lent one.
c10::Storage lend(const c10::Storage& storage) {
  auto* lender = new c10::Storage(storage);
  c10::DataPtr data(storage.mutable_data(), lender,
                    [](void* context) { delete static_cast<c10::Storage*>(context); },
                    Device(DeviceType::CPU));
  return c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data),
                      c10::GetAllocator(DeviceType::CPU), /*resizable=*/true);
}

Tensor with_storage(const Tensor& like, c10::Storage storage, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key),
                                                       like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.is_conj()) impl->_set_conj(true);
  if (like.is_neg()) impl->_set_neg(true);
  return made;
}

Tensor lend(const Tensor& tensor) {
  return with_storage(tensor, lend(tensor.storage()), c10::DispatchKey::CPU);
}

bool is_lacking(at::ScalarType type) { return type == at::kDouble || at::isComplexType(type); }

// ---------------------------------------------------------------------------- operators, computed

// One call of an operator: its arguments become CPU tensors of the same memory, its results become
// tensors of the device. torch's own `cpu_fallback` would copy everything and break aliases.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op)
      : op_(op), name_(c10::toString(op.operator_name())) {}

  void run(torch::jit::Stack* stack) {
    size_t first = stack->size() - op_.schema().arguments().size();
    for (size_t i = first; i < stack->size(); ++i) look((*stack)[i]);
    check();
    for (size_t i = first; i < stack->size(); ++i) (*stack)[i] = to_cpu((*stack)[i]);
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    write_back();
    for (auto& result : *stack) result = to_npu(result);
  }

 private:
  void look(const Tensor& tensor) {
    if (!tensor.defined()) return;
    if (!is_npu(tensor)) {
      // A CPU tensor without dimensions is a number, which every operator takes.
      if (tensor.dim() > 0) other_ = tensor.device();
      return;
    }
    if (!device_) device_ = tensor.device();
    if (tensor.device() != *device_) other_ = tensor.device();
    check_type(tensor.scalar_type());
    if (tensor.dim() > MAX_DIMS) refuse(name_, ": ", tensor.dim(), " dimensions; the NPU takes 8");
  }

  void look(const IValue& value) {
    if (value.isTensor()) {
      look(value.toTensor());
    } else if (value.isTensorList()) {
      for (const Tensor& tensor : value.toTensorVector()) look(tensor);
    } else if (value.isOptionalTensorList()) {
      for (std::optional<Tensor> tensor : value.toOptionalTensorList())
        if (tensor) look(*tensor);
    } else if (value.isDevice() && value.toDevice().type() == NPU && !device_) {
      auto device = value.toDevice();
      device_ = device.has_index() ? device : Device(NPU, current);
    }
  }

  void check_type(at::ScalarType type) {
    if (is_lacking(type)) refuse(name_, ": ", type, " is not supported on the NPU");
  }

  void check() {
    count("operator");
    begin();
    if (!device_) device_ = Device(NPU, current);
    if (other_)
      refuse("Expected all tensors to be on the same device, but found at least two devices, ",
             device_->str(), " and ", other_->str(), "! (", name_, ")");
    check_current(*device_);
  }

  Tensor to_cpu(const Tensor& tensor) {
    if (!is_npu(tensor)) return tensor;
    for (auto& [npu, cpu] : tensors_)
      if (npu.is_same(tensor)) return cpu;
    auto* key = tensor.storage().unsafeGetStorageImpl();
    auto found = storages_.find(key);
    if (found == storages_.end())
      found = storages_.emplace(key, std::pair(tensor.storage(), lend(tensor.storage()))).first;
    Tensor cpu = with_storage(tensor, found->second.second, c10::DispatchKey::CPU);
    tensors_.emplace_back(tensor, cpu);
    return cpu;
  }

  IValue to_cpu(const IValue& value) {
    if (value.isTensor()) return to_cpu(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_cpu(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList())
        list.push_back(tensor ? std::optional(to_cpu(*tensor)) : tensor);
      return list;
    }
    if (value.isDevice() && value.toDevice().type() == NPU) return Device(DeviceType::CPU);
    return value;
  }

  // `out=`, `resize_` and `transpose_` change sizes and memory of what they are given.
  void write_back() {
    for (auto& [key, pair] : storages_) {
      auto& [npu, cpu] = pair;
      if (cpu.data() == npu.data() && cpu.nbytes() == npu.nbytes()) continue;
      size_t num_bytes = cpu.nbytes();
      npu.set_data_ptr_noswap(adopt(cpu, npu.device().index()));
      npu.set_nbytes(num_bytes);
    }
    for (auto& [npu, cpu] : tensors_) {
      if (cpu.sizes() != npu.sizes() || cpu.strides() != npu.strides() ||
          cpu.storage_offset() != npu.storage_offset())
        npu.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(),
                                                         cpu.storage_offset());
    }
  }

  Tensor to_npu(const Tensor& tensor) {
    if (!tensor.defined() || tensor.device().type() != DeviceType::CPU) return tensor;
    for (auto& [npu, cpu] : tensors_)
      if (cpu.is_same(tensor)) return npu;
    check_type(tensor.scalar_type());
    auto* impl = tensor.storage().unsafeGetStorageImpl();
    for (auto& [key, pair] : storages_)
      if (pair.second.unsafeGetStorageImpl() == impl) return with_storage(tensor, pair.first, KEY);
    c10::Storage npu(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                     adopt(tensor.storage(), device_->index()), &allocator, /*resizable=*/true);
    storages_.emplace(npu.unsafeGetStorageImpl(), std::pair(npu, tensor.storage()));
    return with_storage(tensor, npu, KEY);
  }

  IValue to_npu(const IValue& value) {
    if (value.isTensor()) return to_npu(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_npu(tensor));
      return list;
    }
    return value;
  }

  const c10::OperatorHandle& op_;
  std::string name_;
  std::optional<Device> device_;
  std::optional<Device> other_;
  std::vector<std::pair<Tensor, Tensor>> tensors_;                              // NPU, CPU
  std::map<c10::StorageImpl*, std::pair<c10::Storage, c10::Storage>> storages_;  // NPU, CPU
};

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op).run(stack); }

// torch_npu would copy the arguments to the CPU, compute there and copy the result back: slow, and
// the host waits.
void refuse_fallback(const c10::OperatorHandle& op, torch::jit::Stack*) {
  refuse("no kernel of torch_npu: ", c10::toString(op.operator_name()),
         " would fall back to the CPU");
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&refuse_fallback>());
}

// torch takes an operator without a kernel apart. Giving a kernel to exactly those that torch_npu
// has makes it take them apart where it does on an NPU.
std::vector<std::string> register_operators(const std::vector<std::string>& names) {
  static auto* library =
      new torch::Library(torch::Library::IMPL, "aten", KEY, __FILE__, __LINE__);
  std::vector<std::string> unknown;
  for (const auto& name : names) {
    auto dot = name.find('.');
    std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    c10::OperatorName op("aten::" + name.substr(0, dot), overload);
    auto handle = c10::Dispatcher::singleton().findSchema(op);
    if (!handle) {
      unknown.push_back(name);
    } else if (!handle->hasKernelForDispatchKey(KEY)) {
      library->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&compute>());
    }
  }
  return unknown;
}

// ------------------------------------------------------------- operators that make or move tensors

Device chosen(std::optional<Device> wanted) {
  Device device = wanted.value_or(Device(NPU, current));
  if (!device.has_index()) device = Device(NPU, current);
  check_current(device);
  return device;
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(KEY),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(KEY),
                                           c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  begin();
  bool is_from = is_npu(from), is_to = is_npu(to);
  if (is_from && is_to && from.device() != to.device())
    refuse("foreign device: a copy from ", from.device().str(), " to ", to.device().str());
  for (const Tensor& tensor : {from, to}) {
    if (!is_npu(tensor)) continue;
    check_current(tensor.device());
    // Raw bytes of float64 can lie on an NPU and be moved; converting them is an operator.
    if (from.scalar_type() != to.scalar_type() && is_lacking(tensor.scalar_type()))
      refuse("copy_: ", tensor.scalar_type(), " is not supported on the NPU");
    if (tensor.dim() > MAX_DIMS) refuse("copy_: ", tensor.dim(), " dimensions; the NPU takes 8");
  }
  if (from.numel() && !(is_from && is_to)) count(is_from ? "copy to host" : "copy to device");
  Tensor target = is_to ? lend(to) : to;
  target.copy_(is_from ? lend(from) : from);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const Tensor& tensor) {
  begin();
  count("item");
  return lend(tensor).item();
}

const Tensor& resize(const Tensor& self, c10::SymIntArrayRef sizes,
                     std::optional<at::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(sizes));
  if (format && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  size_t num_bytes = at::detail::computeStorageNbytes(self.sizes(), self.strides(),
                                                      self.itemsize(), self.storage_offset());
  if (num_bytes > self.storage().nbytes()) hooks.resizePrivateUse1Bytes(self.storage(), num_bytes);
  return self;
}

Tensor& set_storage(Tensor& self, c10::Storage storage, c10::SymInt offset,
                    c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  auto size = C10_AS_INTARRAYREF_SLOW(sizes);
  if (strides.size() == sizes.size()) {
    impl->set_sizes_and_strides(size, C10_AS_INTARRAYREF_SLOW(strides), offset.expect_int());
  } else {
    impl->set_storage_offset(offset.expect_int());
    impl->set_sizes_contiguous(size);
  }
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage storage) {
  int64_t num_items = storage.nbytes() / self.itemsize();
  return set_storage(self, std::move(storage), 0, {c10::SymInt(num_items)}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sym_sizes(),
                     source.sym_strides());
}

Tensor view(const Tensor& self, c10::SymIntArrayRef sizes) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(sizes));
}

Tensor as_strided(const Tensor& self, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides,
                  std::optional<c10::SymInt> offset) {
  auto start = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(sizes),
                                           C10_AS_INTARRAYREF_SLOW(strides), start);
}

Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  return as_strided(self, sizes, strides, self.sym_storage_offset());
}

void record_stream(Tensor&, c10::Stream) {}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar_dense);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Storage", &set_whole_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("view", &view);
  library.impl("as_strided", &as_strided);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("record_stream", &record_stream);
}

// ----------------------------------------------------------------------------------------- hccl

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// One collective, or several that were begun together.
struct HcclWork final : c10d::Work {
  HcclWork(int rank, c10d::OpType type) : Work(rank, type) {}

  std::vector<WorkPtr> parts;
  Tensors tensors;  // kept until the work is done

  bool isCompleted() override {
    return std::all_of(parts.begin(), parts.end(), [](auto& part) { return part->isCompleted(); });
  }
  bool isSuccess() const override {
    return std::all_of(parts.begin(), parts.end(), [](auto& part) { return part->isSuccess(); });
  }
  bool wait(std::chrono::milliseconds timeout) override {
    for (auto& part : parts) {
      try {
        part->wait(timeout);
      } catch (const std::exception&) {
        hang();
        throw;
      }
    }
    parts.clear();
    return true;
  }
  void synchronize() override { wait(kNoTimeout); }
  Tensors result() override { return tensors; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    wait(kNoTimeout);
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::ofTensors(),
                                                           std::vector<Device>{});
    future->markCompleted(IValue(tensors));
    return future;
  }

 private:
  // gloo notices at once that a peer is lost. HCCL does not: it waits until its time is up.
  static void hang() {
    count("hang");
    std::this_thread::sleep_for(std::chrono::seconds(setting("HCCL_EXEC_TIMEOUT", 1836)));
  }
};

class Hccl final : public c10d::Backend {
 public:
  Hccl(c10::intrusive_ptr<c10d::Backend> gloo, int rank, int size)
      : Backend(rank, size), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "hccl"; }
  bool supportsCoalescing() const override { return true; }
  void startCoalescing() override {
    together_ = c10::make_intrusive<HcclWork>(getRank(), c10d::OpType::COALESCED);
  }
  WorkPtr endCoalescing() override { return std::exchange(together_, nullptr); }
  void setTimeout(std::chrono::milliseconds timeout) override { gloo_->setTimeout(timeout); }
  void shutdown() override { gloo_->shutdown(); }
  void abort() override { gloo_->abort(); }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return 0; }
  c10d::ErrorType getError() override { return c10d::ErrorType::SUCCESS; }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto cpu = lend_all(tensors);
    return begun(gloo_->broadcast(cpu, options), tensors);
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto cpu = lend_all(tensors);
    return begun(gloo_->allreduce(cpu, options), tensors);
  }
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                    const c10d::AllgatherOptions& options) override {
    auto from = lend_all(inputs);
    std::vector<Tensors> to;
    for (auto& list : outputs) to.push_back(lend_all(list));
    return begun(gloo_->allgather(to, from, options), outputs[0]);
  }
  WorkPtr _allgather_base(Tensor& output, Tensor& input,
                          const c10d::AllgatherOptions& options) override {
    auto from = lend_checked(input), to = lend_checked(output);
    return begun(gloo_->_allgather_base(to, from, options), {output});
  }
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override {
    auto from = lend_all(inputs), to = lend_all(outputs);
    return begun(gloo_->allgather_into_tensor_coalesced(to, from, options), outputs);
  }
  WorkPtr _reduce_scatter_base(Tensor& output, Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    auto from = lend_checked(input), to = lend_checked(output);
    return begun(gloo_->_reduce_scatter_base(to, from, options), {output});
  }
  WorkPtr alltoall_base(Tensor& output, Tensor& input, std::vector<int64_t>& output_sizes,
                        std::vector<int64_t>& input_sizes,
                        const c10d::AllToAllOptions& options) override {
    auto from = lend_checked(input), to = lend_checked(output);
    return begun(gloo_->alltoall_base(to, from, output_sizes, input_sizes, options), {output});
  }
  WorkPtr send(Tensors& tensors, int to, int tag) override {
    auto cpu = lend_all(tensors);
    return begun(gloo_->send(cpu, to, tag), tensors);
  }
  WorkPtr recv(Tensors& tensors, int from, int tag) override {
    auto cpu = lend_all(tensors);
    return begun(gloo_->recv(cpu, from, tag), tensors);
  }
  // Not of torch's interface: torch_npu calls it where CANN is older than 9.
  WorkPtr batch_isend_irecv(const std::vector<std::string>& operations, const Tensors& tensors,
                            const std::vector<int64_t>& peers) {
    startCoalescing();
    for (size_t i = 0; i < operations.size(); ++i) {
      Tensors one{tensors[i]};
      operations[i] == "isend" ? send(one, peers[i], 0) : recv(one, peers[i], 0);
    }
    return endCoalescing();
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    count("synchronize");
    return begun(gloo_->barrier(options), {});
  }

 private:
  Tensor lend_checked(const Tensor& tensor) {
    begin();
    if (!is_npu(tensor)) refuse("HCCL takes NPU tensors only; found ", tensor.device().str());
    if (!tensor.is_contiguous()) refuse("HCCL: Tensors must be contiguous");
    if (at::isComplexType(tensor.scalar_type()))
      refuse("HCCL: unsupported data type ", tensor.scalar_type());
    check_current(tensor.device());
    return lend(tensor);
  }
  Tensors lend_all(const Tensors& tensors) {
    Tensors lent;
    for (auto& tensor : tensors) lent.push_back(lend_checked(tensor));
    return lent;
  }
  WorkPtr begun(WorkPtr part, const Tensors& tensors) {
    count("collective");
    auto work = together_;
    if (!work) work = c10::make_intrusive<HcclWork>(getRank(), c10d::OpType::UNKNOWN);
    work->parts.push_back(std::move(part));
    work->tensors.insert(work->tensors.end(), tensors.begin(), tensors.end());
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
  c10::intrusive_ptr<HcclWork> together_;
};

// ------------------------------------------------------------------------------------ for Python

std::map<std::string, int64_t> memory_of(int index) {
  check_index(index);
  const Memory& memory = memories[index];
  return {{"allocated", memory.allocated},
          {"peak", memory.peak},
          {"reserved", memory.reserved},
          {"max_reserved", memory.max_reserved},
          {"capacity", capacity_bytes}};
}

void reset_peak(int index) {
  check_index(index);
  memories[index].peak = memories[index].allocated.load();
  memories[index].max_reserved = memories[index].reserved.load();
}

void empty_cache() {
  for (auto& memory : memories) memory.reserved = memory.allocated.load();
}

std::map<std::string, int64_t> copy_of_counts() {
  std::lock_guard<std::mutex> lock(counts_mutex);
  return counts;
}
}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("register_operators", &register_operators);
  module.def("counts", &copy_of_counts);
  module.def("count", &count);
  module.def("fail_allocation", [](int64_t number) { num_until_failure = number; });

  module.def("init", &begin);
  module.def("is_initialized", &is_begun);
  module.def("is_in_bad_fork", [] { return owner != 0 && !is_begun(); });
  module.def("device_count", [] { return num_devices; });
  module.def("current_device", [] { begin(); return int(current); });
  module.def("set_device", [](int index) { Guard().setDevice(Device(NPU, index)); });
  module.def("memory", &memory_of);
  module.def("reset_peak", &reset_peak);
  module.def("empty_cache", &empty_cache);

  py::class_<Hccl, c10d::Backend, c10::intrusive_ptr<Hccl>>(module, "ProcessGroupHCCL")
      .def(py::init<c10::intrusive_ptr<c10d::Backend>, int, int>())
      .def("batch_isend_irecv", &Hccl::batch_isend_irecv,
           py::call_guard<py::gil_scoped_release>());
}
