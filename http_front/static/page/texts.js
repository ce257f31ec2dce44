// All texts of the page, in English and Chinese.

const ENGLISH = {
  skip: "Skip to the videos",
  key: "API key",
  api: "API",
  formTitle: "Image to video",
  drop: "Drop a picture here, or choose one",
  dropLast: "Last frame: drop a picture here, or choose one",
  lastUrl: "Or the address of the last frame",
  lastMissing: "Choose the last frame: this model needs the first and the last one.",
  pictureNote: "Any picture that this browser can show; several make several videos",
  pictureFits: (name) => `${name}: not cropped`,
  pictureCut: (name, share) => `${name}: ${share}% is cut off; drag the picture to move the crop`,
  pictureBad: (name) => `${name}: this browser cannot show the file as a picture. Choose another.`,
  pictureLarge: (name) => `${name} is larger than 200 MB. Choose another picture.`,
  pictureMissing: "Choose a picture first.",
  pictureUrl: "Or the address of a picture",
  pictureFetched: "The server will fetch the picture and crop it to the video.",
  addressBad: "The address must begin with https:// or http://",
  promptExample: "What happens in the video? A swan glides over the lake, ripples spread, morning light …",
  promptShort: (least) => `Describe the video in at least ${least} characters.`,
  preset: "Preset",
  "preset.tiny": "Tiny",
  "preset.draft": "Draft",
  "preset.standard": "Standard",
  "preset.fine": "Fine",
  customSize: "Other size …",
  submit: "Make the video",
  submitting: "Sending the picture …",
  jobsTitle: "Videos",
  noJobs: "Your videos will appear here. The server keeps them for a limited time.",
  keyTitle: "API key",
  keyNote: "This server requires an API key. The key is stored only in this browser.",
  keyWrong: "The server does not know this key.",
  useKey: "Use it",
  forget: "Forget it",
  cancel: "Cancel",
  play: "Play",
  older: "Show older videos",
  download: "Download",
  reuse: "Use settings",
  delete: "Delete",
  deleteSure: "Delete for good?",
  reused: "The settings have been copied to the form.",
  deleted: "The video has been deleted.",
  submitted: (number) =>
    number === 1 ? "The video is in the queue." : `${number} videos are in the queue.`,
  frames: (number, fps) => `${number} frames · ${(number / fps).toFixed(1)} s`,
  longer: "longer than trained",
  lengthNote: (model, trained) =>
    `${model} was trained with ${trained} frames; longer videos may flicker or repeat themselves.`,
  steps: (number) => `${number} steps`,
  isDefault: "automatic",
  yes: "yes",
  no: "no",
  random: "a new one each time",
  "server.healthy": "Ready",
  "server.unhealthy": "Starting",
  "server.draining": "Stopping",
  "server.lost": "No connection, trying again",
  "server.locked": "An API key is needed",
  "server.busy": (running, queued) => `${running} running, ${queued} waiting`,
  "state.InQueue": "Waiting",
  "state.InProgress": "In progress",
  "state.Succeed": "Finished",
  "state.Failed": "Failed",
  "state.Cancelled": "Cancelled",
  "stage.encode": "Reading prompt and picture",
  "stage.denoise": "Making the video",
  "stage.decode": "Decoding the frames",
  "stage.save": "Writing the file",
  "warning.single_colour": "The video shows a single colour only; try another seed or guidance scale",
  position: (position) => (position === 1 ? "next in the queue" : `number ${position} in the queue`),
  step: (step, total) => `step ${step} of ${total}`,
  left: (time) => `about ${time} left`,
  doneIn: (time) => `done in about ${time}`,
  seconds: (number) => `${number} s`,
  minutes: (number) => `${number} min`,
  hours: (number) => `${number} h`,
  unreachable: "The server cannot be reached.",
  "error.unknown_model": "The server does not serve this model. Choose another.",
  "error.image_url_forbidden": "The server may not fetch from this address. Download the picture and drop it here.",
  "error.image_unavailable": "The picture could not be fetched from this address.",
  "error.image_removed": "The server no longer has this picture. Send it again.",
  "error.image_too_large": "The picture is too large for the server: at most 20 MB and 8192 pixels per side.",
  "error.image_invalid": "The server cannot use this picture. Choose another.",
  "error.queue_full": "The queue is full. Wait until a video is finished.",
  "error.rate_limited": "Too many requests with this key.",
  "error.unauthorized": "The API key is missing or wrong.",
  "label.prompt": "Prompt",
  "label.image_size": "Size",
  "label.num_frames": "Length",
  "label.infer_steps": "Steps",
  "label.guidance_scale": "Guidance scale (CFG)",
  "label.guidance_scale_2": "Guidance scale (CFG), low noise",
  "label.guidance_end": "End of guidance",
  "label.model": "Model",
  "label.seed": "Seed",
  "label.negative_prompt": "Negative prompt",
  "label.vae_parallel": "Parallel VAE",
  "label.ulysses_size": "Ulysses degree",
  "label.cfg_size": "CFG parallel",
  "label.dit_fsdp": "Transformer in shards (FSDP)",
  "label.t5_fsdp": "Text encoder in shards (FSDP)",
  "label.use_attentioncache": "Attention cache",
  "label.start_step": "Cache: first step",
  "label.attentioncache_interval": "Cache: interval",
  "label.end_step": "Cache: last step",
  "label.step_cache": "Step cache",
  "label.step_cache_threshold": "Step cache: threshold",
  "label.sample_solver": "Sampler",
  "label.sample_shift": "Shift",
  "label.loras": "LoRAs",
  loraStrength: (name) => `Strength of ${name}`,

  // The form
  reset: "Reset settings",
  wasReset: "All settings are the model’s defaults again.",
  shape: "Aspect ratio",
  asPicture: "As picture",
  otherSize: "Width × height",
  creative: "Creative",
  engine: "Engine (for operators)",
  changed: (number) => `${number} changed`,
  takes: "Videos per picture, each with its own seed",
  seedKeep: "Keep this seed for all videos",
  seedDraw: "Draw another seed",
  usualNegative: "Use the model’s usual one",
  estimate: (number, time) =>
    number === 1 ? `Takes about ${time}` : `${number} videos, about ${time} together`,
  served: (model) => model,
  demo: "Demo model: blurred on purpose",
  pictureChange: "Change",
  pictureRemove: "Remove",
  cropAt: "Part of the picture that the video shows",
  pictureShow: (name) => `Show ${name}`,
  pictureRemoveOne: (name) => `Remove ${name}`,
  pictureEach: (number) => `${number} pictures, a video of each.`,
  pictureMany: (number, most) => `${number} pictures are too many at once; choose at most ${most}.`,
  pictureSmall: (name, width, height, least) =>
    `${name} has ${width} × ${height} pixels; each side needs at least ${least}. Choose another picture.`,
  pictureOfJob: "Picture of the video",
  pictureGone: "The server no longer has the picture of that video. Choose it again.",
  videoForeign: (name) => `${name} holds no settings of this server. Choose a picture.`,
  restored: (name) => `The settings of ${name} have been copied to the form.`,
  reusedNew: "The settings have been copied to the form; the seed will be a new one.",
  modelGone: (wanted, instead) =>
    `That video was made by ${wanted}, which this server does not serve; the form now has ${instead}.`,
  partly: (number, all) => `${number} of ${all} videos are in the queue; the others were refused.`,
  promptLong: (length, most) => `The prompt has ${length} characters; at most ${most} are possible.`,
  examples: "No picture at hand? Try one of these:",
  "example.boat": "Example: a sailing boat in the evening",
  "example.balloon": "Example: a hot-air balloon over hills",
  "example.lantern": "Example: a paper lantern at night",
  "prompt.boat":
    "The small sailing boat drifts slowly to the right over the calm bay, its reflection shimmers, the evening sun sinks towards the horizon",
  "prompt.balloon":
    "The red hot-air balloon rises gently over the green hills, white clouds drift past, the camera follows it upwards",
  "prompt.lantern":
    "The paper lantern sways softly in the night wind, its warm light flickers, fireflies float up from the dark lake",
  "rule.whole": (least, most) => `A whole number from ${least} to ${most}.`,
  "rule.number": (least, most) => `A number from ${least} to ${most}.`,
  "rule.above": (least, most) => `A number above ${least}, at most ${most}.`,
  "rule.text": (least, most) =>
    least ? `Between ${least} and ${most} characters.` : `At most ${most} characters.`,
  "rule.size": (multiple, least, pixels) =>
    `Width × height, such as 832 × 480: each a multiple of ${multiple} and at least ${least}, together at most ${pixels.toLocaleString("en")} pixels.`,
  "rule.end_step": "The last step must not come before the first one.",
  "rule.step_cache": "Either the step cache or the attention cache, not both.",
  "rule.layout":
    "The devices of this server cannot share the work like this. Leave it on automatic, or try another value.",
  "rule.other": "The server does not take this value.",
  retryAfter: (seconds) => `Try again in ${seconds} s.`,
  "error.invalid_body": "The server could not read what the page sent. Reload the page and try again.",
  "error.invalid_field": "The server does not take one of the settings.",
  "error.unsupported_layout": "The devices of this server cannot share the work like this.",
  "error.unsupported_media_type": "The server could not read what the page sent.",
  "error.body_too_large": "The server takes no upload of this size.",
  "error.request_timeout": "The upload took too long.",
  "error.idempotency_key_reuse": "This video was requested before with other settings.",
  "error.job_not_found": "The server no longer has this video.",
  "error.job_finished": "This video is already finished.",
  "error.storage_full": "The server’s disk is full.",
  "error.unavailable": "The server cannot take it just now.",
  "error.not_found": "The server does not have this.",
  "error.method_not_allowed": "The server does not know this request.",
  "error.forbidden": "The server refuses requests from this page. Its operator can allow this address.",
  "error.internal": "The server has made a mistake; its log says more.",
  "error.other": (status) => `The server refused the request (HTTP status ${status}).`,
};

const CHINESE = {
  skip: "跳到视频列表",
  key: "API 密钥",
  api: "接口文档",
  formTitle: "图生视频",
  drop: "把图片拖到这里，或点击选择",
  dropLast: "尾帧：把图片拖到这里，或点击选择",
  lastUrl: "或填写尾帧图片网址",
  lastMissing: "请选择尾帧：此模型需要首帧和尾帧。",
  pictureNote: "浏览器能显示的图片均可；选多张则各生成一个视频",
  pictureFits: (name) => `${name}：完整显示`,
  pictureCut: (name, share) => `${name}：裁去 ${share}%，拖动图片可移动裁剪位置`,
  pictureBad: (name) => `${name}：浏览器无法显示此图片，请另选一张。`,
  pictureLarge: (name) => `${name} 超过 200 MB，请另选一张图片。`,
  pictureMissing: "请先选择一张图片。",
  pictureUrl: "或填写图片网址",
  pictureFetched: "图片由服务器下载，超出视频画面的部分会被裁去。",
  addressBad: "网址须以 https:// 或 http:// 开头。",
  promptExample: "视频里会发生什么？例如：天鹅滑过湖面，水波荡开，晨光洒落……",
  promptShort: (least) => `请至少用 ${least} 个字符描述视频内容。`,
  preset: "预设",
  "preset.tiny": "极小",
  "preset.draft": "草稿",
  "preset.standard": "标准",
  "preset.fine": "精细",
  customSize: "其他尺寸……",
  submit: "生成视频",
  submitting: "正在上传图片……",
  jobsTitle: "视频",
  noJobs: "生成的视频会出现在这里，并在服务器保存期内一直可见。",
  keyTitle: "API 密钥",
  keyNote: "此服务器需要密钥。密钥只保存在这个浏览器里。",
  keyWrong: "服务器不认识这个密钥。",
  useKey: "使用",
  forget: "清除",
  cancel: "取消",
  play: "播放",
  older: "显示更早的视频",
  download: "下载",
  reuse: "沿用设置",
  delete: "删除",
  deleteSure: "确定删除？",
  reused: "设置已填入表单。",
  deleted: "视频已删除。",
  submitted: (number) => (number === 1 ? "视频已加入队列。" : `${number} 个视频已加入队列。`),
  frames: (number, fps) => `${number} 帧 · ${(number / fps).toFixed(1)} 秒`,
  longer: "超出训练帧数",
  lengthNote: (model, trained) =>
    `${model} 按 ${trained} 帧训练，更长的视频可能闪烁或重复。`,
  steps: (number) => `${number} 步`,
  isDefault: "自动",
  yes: "是",
  no: "否",
  random: "每次随机",
  "server.healthy": "就绪",
  "server.unhealthy": "启动中",
  "server.draining": "正在停止",
  "server.lost": "连接中断，正在重试",
  "server.locked": "需要 API 密钥",
  "server.busy": (running, queued) => `运行中 ${running} 个，排队 ${queued} 个`,
  "state.InQueue": "排队中",
  "state.InProgress": "生成中",
  "state.Succeed": "已完成",
  "state.Failed": "失败",
  "state.Cancelled": "已取消",
  "stage.encode": "读取提示词与图片",
  "stage.denoise": "生成画面",
  "stage.decode": "解码视频帧",
  "stage.save": "写入文件",
  "warning.single_colour": "视频画面只有单一颜色，请换一个随机种子或引导强度重试",
  position: (position) => (position === 1 ? "下一个执行" : `排在第 ${position} 位`),
  step: (step, total) => `第 ${step} / ${total} 步`,
  left: (time) => `还需约 ${time}`,
  doneIn: (time) => `约 ${time}后完成`,
  seconds: (number) => `${number} 秒`,
  minutes: (number) => `${number} 分钟`,
  hours: (number) => `${number} 小时`,
  unreachable: "无法连接到服务器。",
  "error.unknown_model": "服务器没有这个模型，请另选一个。",
  "error.image_url_forbidden": "服务器不允许从此网址下载，请把图片保存后拖到这里。",
  "error.image_unavailable": "无法从此网址下载图片。",
  "error.image_removed": "服务器上已没有这张图片，请重新提交。",
  "error.image_too_large": "图片过大：不超过 20 MB，每边不超过 8192 像素。",
  "error.image_invalid": "服务器无法使用这张图片，请另选一张。",
  "error.queue_full": "队列已满，请等一个视频完成后再试。",
  "error.rate_limited": "此密钥的请求过于频繁。",
  "error.unauthorized": "缺少 API 密钥，或密钥不正确。",
  "label.prompt": "提示词",
  "label.image_size": "尺寸",
  "label.num_frames": "时长",
  "label.infer_steps": "采样步数",
  "label.guidance_scale": "提示词引导强度（CFG）",
  "label.guidance_scale_2": "提示词引导强度（CFG，低噪声）",
  "label.guidance_end": "引导结束位置",
  "label.model": "模型",
  "label.seed": "随机种子",
  "label.negative_prompt": "反向提示词",
  "label.vae_parallel": "VAE 并行",
  "label.ulysses_size": "Ulysses 并行度",
  "label.cfg_size": "CFG 并行",
  "label.dit_fsdp": "Transformer 分片（FSDP）",
  "label.t5_fsdp": "文本编码器分片（FSDP）",
  "label.use_attentioncache": "注意力缓存",
  "label.start_step": "缓存：起始步",
  "label.attentioncache_interval": "缓存：间隔",
  "label.end_step": "缓存：结束步",
  "label.step_cache": "步缓存",
  "label.step_cache_threshold": "步缓存：阈值",
  "label.sample_solver": "采样器",
  "label.sample_shift": "Shift（偏移）",
  "label.loras": "LoRA",
  loraStrength: (name) => `${name} 的强度`,

  // 表单
  reset: "恢复默认设置",
  wasReset: "所有设置已恢复为模型的默认值。",
  shape: "画面比例",
  asPicture: "同图片",
  otherSize: "宽 × 高",
  creative: "创作",
  engine: "引擎（供运维使用）",
  changed: (number) => `已改 ${number} 项`,
  takes: "每张图片的视频数，种子各不相同",
  seedKeep: "所有视频都用这个种子",
  seedDraw: "换一个种子",
  usualNegative: "填入模型常用的反向提示词",
  estimate: (number, time) =>
    number === 1 ? `预计约 ${time}` : `${number} 个视频，共约 ${time}`,
  served: (model) => model,
  demo: "演示模型：画面本来就模糊",
  pictureChange: "更换",
  pictureRemove: "移除",
  cropAt: "视频显示图片的哪一部分",
  pictureShow: (name) => `显示 ${name}`,
  pictureRemoveOne: (name) => `移除 ${name}`,
  pictureEach: (number) => `共 ${number} 张图片，各生成一个视频。`,
  pictureMany: (number, most) => `一次选了 ${number} 张图片，最多 ${most} 张。`,
  pictureSmall: (name, width, height, least) =>
    `${name} 只有 ${width} × ${height} 像素，每边至少需要 ${least} 像素，请另选一张。`,
  pictureOfJob: "该视频的图片",
  pictureGone: "服务器上已没有该视频的图片，请重新选择。",
  videoForeign: (name) => `${name} 里没有本服务器的设置，请选择图片。`,
  restored: (name) => `${name} 的设置已填入表单。`,
  reusedNew: "设置已填入表单，种子将重新随机。",
  modelGone: (wanted, instead) => `该视频由 ${wanted} 生成，此服务器没有这个模型；表单中改为 ${instead}。`,
  partly: (number, all) => `${all} 个视频中有 ${number} 个已加入队列，其余被拒绝。`,
  promptLong: (length, most) => `提示词有 ${length} 个字符，最多 ${most} 个。`,
  examples: "手边没有图片？试试这些：",
  "example.boat": "示例：傍晚的帆船",
  "example.balloon": "示例：山丘上的热气球",
  "example.lantern": "示例：夜里的纸灯笼",
  "prompt.boat": "小帆船在平静的海湾里缓缓向右漂行，水中倒影闪动，夕阳慢慢沉向海平线",
  "prompt.balloon": "红色热气球从绿色山丘上轻轻升起，白云缓缓飘过，镜头随之向上移动",
  "prompt.lantern": "纸灯笼在夜风中轻轻摇晃，暖光闪烁，萤火虫从幽暗的湖面飘起",
  "rule.whole": (least, most) => `应为 ${least} 到 ${most} 的整数。`,
  "rule.number": (least, most) => `应为 ${least} 到 ${most} 的数。`,
  "rule.above": (least, most) => `应大于 ${least}，且不超过 ${most}。`,
  "rule.text": (least, most) => (least ? `应为 ${least} 到 ${most} 个字符。` : `最多 ${most} 个字符。`),
  "rule.size": (multiple, least, pixels) =>
    `写作“宽 × 高”，例如 832 × 480：每边为 ${multiple} 的倍数且不小于 ${least}，总像素不超过 ${pixels}。`,
  "rule.end_step": "结束步不能早于起始步。",
  "rule.step_cache": "步缓存与注意力缓存只能二选一。",
  "rule.layout": "此服务器的设备无法这样分工，请保持“自动”或换一个值。",
  "rule.other": "服务器不接受这个值。",
  retryAfter: (seconds) => `请在 ${seconds} 秒后重试。`,
  "error.invalid_body": "服务器无法读取页面发送的内容，请刷新页面后重试。",
  "error.invalid_field": "服务器不接受其中一项设置。",
  "error.unsupported_layout": "此服务器的设备无法这样分工。",
  "error.unsupported_media_type": "服务器无法读取页面发送的内容。",
  "error.body_too_large": "上传的内容过大。",
  "error.request_timeout": "上传超时。",
  "error.idempotency_key_reuse": "这个视频之前已用其他设置提交过。",
  "error.job_not_found": "服务器上已没有这个视频。",
  "error.job_finished": "这个视频已经完成。",
  "error.storage_full": "服务器磁盘已满。",
  "error.unavailable": "服务器暂时无法接收。",
  "error.not_found": "服务器上没有此内容。",
  "error.method_not_allowed": "服务器不认识这个请求。",
  "error.forbidden": "服务器拒绝来自此页面的请求，可请管理员放行此地址。",
  "error.internal": "服务器内部出错，详情见其日志。",
  "error.other": (status) => `服务器拒绝了请求（HTTP 状态码 ${status}）。`,
};

const LANGUAGES = { en: ENGLISH, zh: CHINESE };
let current = "en";

/** Return the current language: en or zh. */
export function language() {
  return current;
}

/** Return a text in the current language; `values` fill its gaps. */
export function text(name, ...values) {
  const found = LANGUAGES[current][name];
  return typeof found === "function" ? found(...values) : found;
}

/** Return a text, or `otherwise` if there is no text of this name. */
export function textOr(name, otherwise) {
  return LANGUAGES[current][name] ?? otherwise;
}

/** Return the user's preferred language among those of the page. */
export function preferredLanguage() {
  const known = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase());
  return known.find((tag) => tag in LANGUAGES) ?? "en";
}

/** Switch the language and translate the whole document. */
export function speak(name) {
  current = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  translate(document);
}

/** Fill in the texts of all elements in a part of the document. */
export function translate(part) {
  for (const element of part.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  for (const element of part.querySelectorAll("[data-label]")) {
    element.ariaLabel = text(element.dataset.label);
  }
  for (const element of part.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text(element.dataset.placeholder);
  }
}

/** Format a time by the user's locale, with the date unless it is today. */
export function clock(epochS) {
  const time = new Date(epochS * 1000);
  const format = { hour: "2-digit", minute: "2-digit" };
  if (time.toDateString() !== new Date().toDateString()) {
    Object.assign(format, { month: "short", day: "numeric" });
  }
  const own = navigator.languages.find((tag) => tag.toLowerCase().startsWith(current));
  return time.toLocaleString(own ?? document.documentElement.lang, format);
}

/** Format a duration in the largest suitable unit. */
export function duration(seconds) {
  if (seconds < 90) return text("seconds", Math.max(1, Math.round(seconds)));
  if (seconds < 5400) return text("minutes", Math.round(seconds / 60));
  return text("hours", (seconds / 3600).toFixed(1));
}
